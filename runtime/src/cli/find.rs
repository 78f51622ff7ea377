//! [`find_or_start`]: a place to run at: a server that was named, one that is started, or the embedded broker.

use super::new_enough::{Choice, new_enough};
use super::settings::Settings;
use super::{Failure, output};
use crate::Launch;
use crate::broker::{ConnectOptions, Embedded, NatsServer, ServerOptions};

/// Where a pipeline can be run.
#[derive(Debug)]
pub(super) enum Place {
    /// A server that somebody named.
    Named(Box<ConnectOptions>),
    /// A server that was started for this, and goes with it; which program it is.
    Started(NatsServer, String),
    /// A broker in this process, where there is no server to start; why there is none.
    Embedded(Embedded, String),
}

/// Finds or starts a place to run at, for what has to work at once and anywhere. A server that happens to run on this
/// machine is left alone, unless it was named: what is on it is somebody's.
///
/// # Errors
/// A server, or a program to start as one, was named and cannot be used: then no other is taken in its place.
pub(super) async fn find_or_start(settings: &Settings) -> Result<Place, Failure> {
    if settings.names_server() {
        let options = settings.connect_options(None);
        options.clone().connect().await?;
        return Ok(Place::Named(Box::new(options)));
    }
    let Choice { program, words } = new_enough()?;
    let why = match program {
        None => words,
        Some(program) => {
            let options = ServerOptions { program: Some(program), ..ServerOptions::default() };
            match NatsServer::start_as(options).await {
                Ok(server) => return Ok(Place::Started(server, words)),
                Err(error) => {
                    output::say(&format!("{words}, does not start: {error}"));
                    "the nats-server that was found does not start".to_owned()
                }
            }
        }
    };
    Ok(Place::Embedded(Embedded::default(), why))
}

impl Place {
    /// Which it is, for people.
    pub(super) fn words(&self) -> String {
        match self {
            Place::Named(options) => format!("the NATS server at {}", options.shown()),
            Place::Started(server, which) => format!("a nats-server started for this, at {}: {which}", server.url()),
            Place::Embedded(_, why) => {
                format!("the broker inside of this process, as {why}: nobody else can reach it, and it keeps nothing")
            }
        }
    }

    /// How to reach it; `None` for the embedded broker.
    pub(super) fn options(&self) -> Option<ConnectOptions> {
        match self {
            Place::Named(options) => Some((**options).clone()),
            Place::Started(server, _) => Some(ConnectOptions::to(server.url())),
            Place::Embedded(..) => None,
        }
    }

    /// The launch, at this place.
    pub(super) fn launch(&self, launch: Launch) -> Launch {
        match (self, self.options()) {
            (Place::Embedded(broker, _), _) => launch.embedded(broker.clone()),
            (_, Some(options)) => launch.nats(options),
            (_, None) => launch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Server;
    use super::*;

    #[tokio::test]
    async fn a_pipeline_runs_at_the_embedded_broker_where_there_is_no_server() {
        use crate::broker::{Js, StreamConfig};
        use crate::connectors::{jetstream, jetstream_to};
        let broker = Embedded::default();
        let js = Js::new(broker.connect());
        for (name, subject) in [("IN", "in"), ("OUT", "out")] {
            js.create_stream(&StreamConfig::new(name, [subject])).await.unwrap();
        }
        js.publish("in", millstream_operators::Headers::NONE, "row").await.unwrap();
        let pipeline = millstream_pipelines::dsl::Pipeline::new("copy");
        pipeline
            .source("in", jetstream("IN").text().ignore_rejected())
            .sink("out", jetstream_to("OUT").text().subject("out").stop_on_rejected());
        let place = Place::Embedded(broker, "there is none".to_owned());
        assert!(place.words().contains("keeps nothing"));
        place.launch(Launch::default()).until_end().run(&pipeline).await.unwrap();
        assert_eq!(js.stream("OUT").await.unwrap().state.messages, 1);
    }

    #[tokio::test]
    async fn a_named_server_is_used_and_no_other_in_its_place() {
        let server = NatsServer::start().await.unwrap();
        let named = |url: String| Settings::default().with_server(&Server { nats: Some(url), ..Server::default() });
        let place = find_or_start(&named(server.url())).await.unwrap();
        assert!(matches!(&place, Place::Named(_)) && place.words().contains(&server.url()), "{}", place.words());
        let nowhere = "nats://127.0.0.1:1".to_owned();
        assert!(find_or_start(&named(nowhere)).await.unwrap_err().to_string().contains("127.0.0.1:1"));
    }
}
