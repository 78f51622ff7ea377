//! What expressions compute, and what is said about those that cannot.

use serde_json::{Value, json};

use super::*;
use crate::columnar::tests::{lines, rows};
use crate::columnar::{describe, schema};

const COLUMNS: [(&str, &str); 14] = [
    ("id", "int64 not null"),
    ("amount", "float64"),
    ("customerId", "utf8"),
    ("at", "timestamp"),
    ("day", "date"),
    ("ok", "bool"),
    ("tags", "list<utf8>"),
    ("where", "struct<city: utf8, no: int32>"),
    ("small", "int8"),
    ("user", "utf8"),
    ("price", "decimal(10, 2)"),
    ("raw", "json"),
    ("points", "list<struct<x: int64>>"),
    ("end", "int64"),
];
const ROW: &str = r#"{"id":7,"amount":2.5,"customerId":"Ann","at":"2026-01-01T12:34:56Z","day":"2026-01-02","ok":true,
    "tags":["a","b"],"where":{"city":"Bern","no":5},"small":100,"user":"u","price":"12.30","raw":"[1]","points":[{"x":1},{"x":5}],"end":3}"#;

fn compile(sql: &str) -> Result<Expression, ExprError> {
    Expression::compile(sql, &schema(COLUMNS).unwrap())
}

fn value(sql: &str) -> Value {
    let computed = || -> Result<Value, Box<dyn std::error::Error>> {
        let batch = rows(&COLUMNS, &[ROW]);
        let expression = compile(sql)?;
        let array = expression.evaluate(batch.rows(), Timestamp::from_millis(1_767_268_800_000))?;
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![expression.field("v")]));
        Ok(lines(&RecordBatch::try_new(schema, vec![array])?)[0]["v"].clone())
    };
    computed().unwrap_or_else(|error| Value::String(error.to_string()))
}

#[test]
fn computes_what_sql_says() {
    let cases = [
        ("id + 1", json!(8)),
        ("amount * 2 > 4.9", json!(true)),
        ("customerId", json!("Ann")),
        (r#""customerId" || '-' || id"#, json!("Ann-7")),
        ("UPPER(customerId)", json!("ANN")),
        ("case when amount > 2 then 'big' else 'small' end", json!("big")),
        ("id between 7 and 9 and customerId like 'A%'", json!(true)),
        ("id in (1, 2, 7)", json!(true)),
        ("tags[1]", json!("a")),
        ("array_length(tags)", json!(2)),
        ("array_has(tags, 'b')", json!(true)),
        ("where.city", json!("Bern")),
        ("\"where\"['no'] + 1", json!(6)),
        ("extract(year from at)", json!(2026)),
        ("date_trunc('hour', at)", json!("2026-01-01T12:00:00Z")),
        ("at + interval '1 day'", json!("2026-01-02T12:34:56Z")),
        ("at > '2025-12-31T00:00:00Z'", json!(true)),
        ("at >= timestamp '2026-01-01T12:34:56Z'", json!(true)),
        ("day = date '2026-01-02'", json!(true)),
        ("now()", json!("2026-01-01T12:00:00Z")),
        ("at > current_timestamp", json!(true)),
        ("current_date", json!("2026-01-01")),
        ("to_timestamp(0)", json!("1970-01-01T00:00:00Z")),
        ("coalesce(null, user)", json!("u")),
        ("coalesce(id = 1, false)", json!(false)),
        ("not ok", json!(false)),
        ("cast(id as utf8)", json!("7")),
        ("cast(id as int8)", json!(7)),
        ("id::float64", json!(7.0)),
        ("try_cast('x' as int64)", json!(null)),
        ("price * 2", json!(24.6)),
        ("array_transform(points, p -> p['x'] + 1)", json!([2, 6])),
        ("points[2].x", json!(5)),
        ("named_struct('a', id, 'b', user)", json!({"a": 7, "b": "u"})),
        ("{'a': id}", json!({"a": 7})),
        ("[id, 2]", json!([7, 2])),
        ("regexp_like(customerId, '^A.n$')", json!(true)),
        ("customerId ~ 'nn'", json!(true)),
        ("substring(customerId from 2 for 1)", json!("n")),
        ("substring(customerId, 2)", json!("nn")),
        ("substr(user, 1)", json!("u")),
        ("position('n' in customerId)", json!(2)),
        ("trim(both 'A' from customerId)", json!("nn")),
        ("overlay(customerId placing 'x' from 1)", json!("xnn")),
        ("-- what?\nid /* really */", json!(7)),
        ("id = 7 and (tags[5] is null or 1 / (id - 7) > 0)", json!(true)),
        ("array_filter(tags, t -> t <> 'a')", json!(["b"])),
        ("'a' = any(tags)", json!(true)),
        ("at - interval '1' hour < now() or at <> at", json!(true)),
        ("customerId in ('Ann', 'Bob') and not (user is null)", json!(true)),
        ("case id when 7 then 'seven' end", json!("seven")),
        ("map {'a': id}", json!({"a": 7})),
        ("'n-' || id % 4 + 1 = 'n-4'", json!(true)),
        ("md5(user)", json!("7b774effe4a349c6dd82ad4f4f21d34c")),
        ("round(amount)", json!(3.0)),
        ("-id", json!(-7)),
        ("amount / 0 > 1", json!(true)),
        ("raw", json!("[1]")),
        ("\"end\" + 1", json!(4)),
        ("id is distinct from null", json!(true)),
        ("nullif(id, 7)", json!(null)),
    ];
    let wrong = cases.into_iter().filter(|(sql, expected)| value(sql) != *expected);
    let wrong: Vec<_> = wrong.map(|(sql, expected)| format!("{sql}: {} instead of {expected}", value(sql))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn gives_types_that_a_schema_can_declare() {
    for (sql, data_type) in [
        ("to_timestamp(id)", "timestamp"),
        ("at - at", "duration"),
        ("user || 'x'", "utf8"),
        ("amount * 1.5", "float64"),
        ("arrow_cast(user, 'Utf8View')", "utf8"),
        ("small + small", "int8"),
        ("raw", "json"),
        ("id", "int64 not null"),
        ("at at time zone 'Europe/Zurich'", "timestamp"),
        ("string_to_array(user, ',')", "list<utf8>"),
    ] {
        let field = compile(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}")).field("x");
        let schema = arrow::datatypes::Schema::new(vec![field]);
        assert_eq!(describe(&schema), format!("x: {data_type}"), "{sql}");
    }
}

/// The error of an expression, and the text that it blames.
fn error(sql: &str) -> (String, String) {
    let error = compile(sql).err().unwrap_or_else(|| ExprError::new("it compiles"));
    let blamed = error.within.clone().map_or("", |within| sql.get(within).unwrap());
    (error.to_string(), blamed.to_owned())
}

#[test]
fn says_what_is_wrong_where_and_what_to_do() {
    let mut wrong = Vec::new();
    for (sql, blamed, words) in [
        ("amuont > 1", "amuont", "there is no column `amuont` (did you mean `amount`?)"),
        ("1 < customerid", "customerid", "did you mean `customerId`?"),
        ("id +\n  zzzzzzzz", "zzzzzzzz", "the columns are `id`, `amount`"),
        ("user = \"Ann\"", "\"Ann\"", "text stands in single quotes: 'Ann'"),
        ("where.ctiy", "where.ctiy", "`where` has no field `ctiy` (did you mean `city`?)"),
        ("user.x", "user.x", "`user` is utf8 and has no fields"),
        ("uper(user)", "uper", "there is no function `uper` (did you mean `upper`?)"),
        ("id > 1 and sum(amount) > 2", "sum", "`sum` takes many rows together"),
        ("row_number() over ()", "row_number", "looks at other rows"),
        ("sum(id) over ()", "sum", "looks at other rows"),
        ("count(*)", "count", "`count` takes many rows together"),
        ("*", "*", "`*` is not a value"),
        ("id in (select 1)", "", "subquery"),
        ("exists (select 1)", "", "subquery"),
        ("random() > 0.5", "random", "a row's origin makes a stable id"),
        ("uuid()", "uuid", "a row's origin makes a stable id"),
        ("unnest(tags)", "unnest", "explode"),
        ("user > 5", "user > 5", "`user` is utf8 and `5` is int64: `>` does not go between them"),
        ("id + user", "id + user", "`id` is int64 and `user` is utf8: `+` does not go between them"),
        ("ok + 1", "ok + 1", "`ok` is bool and `1` is int64"),
        ("id > 1 and user", "id > 1 and user", "`id > 1` is bool and `user` is utf8"),
        ("abs(user)", "abs(user)", "`abs` does not take (utf8)"),
        ("upper(user, user)", "upper(user, user)", "`upper` does not take (utf8, utf8)"),
        ("id in (1, 'x')", "id in (1, 'x')", "does not go"),
        ("id between 'a' and 'b'", "id between 'a' and 'b'", "does not go"),
        ("id >", "", "expected an expression, found the end"),
        ("(id > 1", "", "expected ), found the end"),
        ("id > 1)", ")", "`)` does not belong here"),
        ("id foo", "foo", "`foo` does not belong here"),
        ("id end", "end", "`end` is a word of SQL: write \"end\" for the column"),
        ("'abc", "'abc", "Unterminated string literal"),
        ("", "", "the expression is empty"),
        ("-- nothing", "", "the expression is empty"),
        ("at > 'yesterday'", "", "yesterday"),
        ("cast('x' as int64) > id", "'x'", "Cannot cast string 'x' to value of Int64 type"),
        ("cast(id as strng)", "", "strng"),
        ("user ~ '('", "", "regex"),
        ("regexp_like(user, '[')", "", "regex"),
        ("1 / 0", "", "ivide by zero"),
        ("null", "", "is always null"),
        ("id = $1", "$1", "placeholder"),
        ("select id", "select", "not a query"),
        ("id as x", "as", "`as` does not belong here"),
        ("f.g(id)", "f.g", "there is no function `f.g`"),
    ] {
        let (what, at) = error(sql);
        let jargon =
            ["DataFusion", "planning", "Internal", "sqltorel", "Utf8View"].iter().any(|word| what.contains(word));
        let says = what.to_lowercase().contains(&words.to_lowercase());
        if jargon || !says || !(blamed.is_empty() || at == blamed) {
            wrong.push(format!("{sql}: blames `{at}`: {what}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn places_count_bytes_even_behind_other_letters() {
    let error = compile("'é' = 'ü' or\n'ö' = zz").unwrap_err();
    assert_eq!(error.within, Some(22..24));
}

#[test]
fn whole_numbers_never_wrap() {
    let batch = rows(&COLUMNS, &[ROW]);
    for sql in [
        "small + small",
        "small * small",
        "-small - small",
        "-(small - cast(28 as int8) - small - small)",
        "array_transform([small], x -> x + x)",
        "id / 0",
        "id % (id - 7)",
        "cast(id * 100 as int8)",
    ] {
        let fault = compile(sql).unwrap().evaluate(batch.rows(), Timestamp::MIN).unwrap_err();
        assert!(fault.to_string().starts_with(&format!("`{sql}`: ")), "{fault}");
    }
}

#[test]
fn knows_whether_a_row_can_make_it_fail() {
    for safe in
        ["id > 1 and user like 'a%'", "amount * 2", "where.city", "upper(user) = 'A' or ok", "at < now()", "raw"]
    {
        assert!(!compile(safe).unwrap().can_fail(), "{safe}");
    }
    for risky in ["id + 1", "1 / id", "cast(user as int64)", "regexp_like(user, customerId)", "to_timestamp(user)"] {
        assert!(compile(risky).unwrap().can_fail(), "{risky}");
    }
}

#[test]
fn rows_of_another_schema_are_a_bug_and_not_a_bad_row() {
    let batch = rows(&[("id", "utf8")], &["{}"]);
    let fault = compile("id").unwrap().evaluate(batch.rows(), Timestamp::MIN).unwrap_err();
    assert_eq!(fault.kind(), crate::FaultKind::Bug);
}

#[test]
fn deep_and_long_expressions_neither_overflow_nor_hang() {
    assert!(error(&"(".repeat(400)).0.contains("nested"));
    assert!(error(&"(".repeat(100_000)).0.contains("longer"));
    assert!(error(&format!("id{}", " + 1".repeat(100_000))).0.contains("longer"));
    assert_eq!(value(&format!("id{}", " + 1".repeat(100))), json!(107));
    // Workers may have small stacks.
    let narrow = std::thread::Builder::new().stack_size(1 << 20);
    let sums = narrow.spawn(|| value(&format!("id{}", " + 1".repeat(240)))).unwrap();
    assert_eq!(sums.join().unwrap(), json!(247));
    let mut deep = "id".to_owned();
    (0..40).for_each(|_| deep = format!("({deep} + 1)"));
    assert_eq!(value(&deep), json!(47));
}
