//! [`place`]: where in the file a problem of the pipeline stands, and what is said of it there.

use std::ops::Range;

use millstream_operators::Problem;
use toml::Spanned;

use super::Mistake;
use super::node::NodeTable;
use super::place::Text;
use crate::graph::UNSAID;

/// A problem of the pipeline as a mistake of the file: at the bytes of its setting, at the setting, or at the name of its
/// node.
pub(super) fn place(
    text: &Text,
    nodes: &[NodeTable<'_>],
    named_at: Option<&Range<usize>>,
    problem: &Problem,
) -> Mistake {
    let (mut what, mut help) = (problem.what.clone(), problem.help.clone());
    if problem.what == UNSAID {
        let sink = nodes.iter().find(|node| node.is_outlet()).map_or("dead", |node| node.name.as_str());
        help = Some(format!("add `on_error = \"stop\"`, `\"drop\"` or `{{ send_to = \"{sink}\" }}`"));
    }
    let Some(node) = nodes.iter().find(|node| node.is(&problem.node)) else {
        if problem.node.is_empty() {
            let at = named_at.cloned().filter(|_| problem.what.starts_with("the pipeline's name"));
            return Mistake::at(at, what).help(help);
        }
        return Mistake::at(None, format!("{}: {what}", problem.node)).help(help);
    };
    let setting = problem.setting.as_deref().and_then(|path| node.setting(path));
    let part = match (setting, &problem.within) {
        (Some(value), Some(within)) => {
            value.get_ref().as_str().and_then(|string| text.within(&value.span(), string, within))
        }
        _ => None,
    };
    if setting.is_none() {
        what = format!("`{}`: {what}", node.name);
    }
    let at = part.or_else(|| setting.map(Spanned::span)).unwrap_or_else(|| node.at.clone());
    Mistake::at(at, what).help(help)
}
