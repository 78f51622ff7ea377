//! The functions that an expression may call, and the clock behind `now()`.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::datatype::DataTypeExt;
use datafusion_common::{DataFusionError, Result as DfResult, ScalarValue, TableReference};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion_expr::{
    AggregateUDF, ColumnarValue, HigherOrderUDF, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TableSource, Volatility, WindowUDF,
};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_functions_nested::planner::{FieldAccessPlanner, NestedFunctionPlanner};
use datafusion_sql::sqlparser::ast;

use crate::Timestamp;
use crate::columnar::schema;

/// Functions of DataFusion that are not offered: they would give another value on a replay, or speak of files.
const LEFT_OUT: [&str; 9] = [
    "random",
    "uuid",
    "now",
    "current_date",
    "current_time",
    "version",
    "input_file_name",
    "file_row_index",
    "with_metadata",
];

thread_local! {
    // Evaluation is synchronous and stays on its thread, so what `at` sets is what the function reads.
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// Evaluates something while `now()` is `now`.
pub(super) fn at<T>(now: Timestamp, evaluate: impl FnOnce() -> T) -> T {
    NOW.set(now.as_micros());
    evaluate()
}

/// All functions by name and alias.
pub(super) struct Catalog {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    higher_order: HashMap<String, Arc<HigherOrderUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::new);

/// The functions that there are.
pub(super) fn catalog() -> &'static Catalog {
    &CATALOG
}

impl Catalog {
    fn new() -> Catalog {
        let clock = [Clock::Now, Clock::CurrentDate].map(|clock| Arc::new(ScalarUDF::from(ClockFunction::new(clock))));
        let all = datafusion_functions::all_default_functions().into_iter();
        let all = all.chain(datafusion_functions_nested::all_default_nested_functions());
        let offered = all.filter(|function| !LEFT_OUT.contains(&function.name())).chain(clock);
        let mut scalar = HashMap::new();
        for function in offered {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                scalar.insert(name.to_owned(), Arc::clone(&function));
            }
        }
        let mut higher_order = HashMap::new();
        for function in datafusion_functions_nested::all_default_higher_order_functions() {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                higher_order.insert(name.to_owned(), Arc::clone(&function));
            }
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(NestedFunctionPlanner),
            Arc::new(FieldAccessPlanner),
            Arc::new(CoreFunctionPlanner::default()),
            Arc::new(DatetimeFunctionPlanner),
            Arc::new(UnicodeFunctionPlanner),
        ];
        let mut options = ConfigOptions::default();
        options.execution.time_zone = Some(schema::UTC.to_owned());
        Catalog { scalar, higher_order, planners, options }
    }

    /// Whether there is a function of this name, in lower case.
    pub(super) fn has(&self, name: &str) -> bool {
        self.scalar.contains_key(name)
            || self.higher_order.contains_key(name)
            // Planned by name, not registered.
            || name == "make_map"
    }

    /// The names of all functions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.scalar.keys().chain(self.higher_order.keys()).map(String::as_str)
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        Err(DataFusionError::Plan(format!("there is no table `{name}`")))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(DeclaredTypes))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.higher_order.get(name).cloned()
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Types in a cast are those that a schema declares; SQL's own names stand for what they always do.
#[derive(Debug)]
struct DeclaredTypes;

impl TypePlanner for DeclaredTypes {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> DfResult<Option<FieldRef>> {
        let declared = schema::parse_type(&sql_type.to_string()).ok();
        Ok(declared.map(|(data_type, _)| data_type.into_nullable_field_ref()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Clock {
    Now,
    CurrentDate,
}

/// `now()` and `current_date`: what [`at`] says.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ClockFunction {
    clock: Clock,
    signature: Signature,
    aliases: Vec<String>,
}

impl ClockFunction {
    fn new(clock: Clock) -> Self {
        let aliases = match clock {
            Clock::Now => vec!["current_timestamp".to_owned()],
            Clock::CurrentDate => vec!["today".to_owned()],
        };
        // Volatile, or it would be folded into a constant when the expression is compiled.
        ClockFunction { clock, signature: Signature::nullary(Volatility::Volatile), aliases }
    }
}

impl ScalarUDFImpl for ClockFunction {
    fn name(&self) -> &str {
        match self.clock {
            Clock::Now => "now",
            Clock::CurrentDate => "current_date",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(match self.clock {
            Clock::Now => schema::timestamp(),
            Clock::CurrentDate => DataType::Date32,
        })
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.return_type(&[])?, false)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let micros = NOW.get();
        Ok(ColumnarValue::Scalar(match self.clock {
            Clock::Now => ScalarValue::TimestampMicrosecond(Some(micros), Some(schema::UTC.into())),
            Clock::CurrentDate => ScalarValue::Date32(i32::try_from(micros.div_euclid(86_400_000_000)).ok()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_offers_what_can_be_replayed() {
        for name in
            ["now", "current_timestamp", "upper", "array_length", "regexp_like", "date_trunc", "array_filter", "sha256"]
        {
            assert!(catalog().has(name), "{name}");
        }
        for name in ["random", "uuid", "sum", "version", "current_time"] {
            assert!(!catalog().has(name), "{name}");
        }
        let volatile = catalog().scalar.values().filter(|f| f.signature().volatility == Volatility::Volatile);
        let names: std::collections::BTreeSet<_> = volatile.map(|function| function.name()).collect();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["current_date", "now"]);
    }
}
