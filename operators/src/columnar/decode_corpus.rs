//! Payloads that JSON decoders stumble over, each with what must come of it: for the tests of everything that decodes.

/// A payload, and the row that it is: as JSON, with every column of [`HOSTILE_COLUMNS`]; `None` if it must be rejected.
#[derive(Clone, Debug)]
pub struct HostileJson {
    /// The bytes of the message.
    pub payload: Vec<u8>,
    /// The columns that are not null, as a JSON object.
    pub row: Option<&'static str>,
}

/// The schema that the payloads of [`hostile_json`] are for.
pub const HOSTILE_COLUMNS: [(&str, &str); 12] = [
    ("id", "int64 not null"),
    ("name", "utf8"),
    ("amount", "float64"),
    ("ratio", "float32"),
    ("small", "int8"),
    ("big", "uint64"),
    ("ok", "bool"),
    ("at", "timestamp"),
    ("day", "date"),
    ("tags", "list<utf8>"),
    ("inner", "struct<x: int32, y: list<int64 not null>>"),
    ("price", "decimal(6, 2)"),
];

/// Over a hundred payloads: broken syntax, broken text, numbers that do not fit, values of other types, deep nesting,
/// and odd but legal ones among them.
pub fn hostile_json() -> Vec<HostileJson> {
    let text = GOOD.iter().map(|(payload, row)| ((*payload).to_owned().into_bytes(), Some(*row)));
    let text = text.chain(BAD.iter().map(|payload| ((*payload).to_owned().into_bytes(), None)));
    let bytes = BAD_BYTES.iter().map(|payload| (payload.to_vec(), None));
    let nested = |open: &str, close: &str, depth: usize| {
        format!(r#"{{"id":1,"other":{}1{}}}"#, open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    let made = [
        (nested("[", "]", 127), Some(r#"{"id":1}"#)),
        (nested("[", "]", 128), None),
        (nested("{\"a\":", "}", 128), None),
        (nested("[", "]", 100_000), None),
        ("[".repeat(1_000_000).into_bytes(), None),
        ("{\"id\":".repeat(200_000).into_bytes(), None),
        (format!(r#"{{"id":1,"other":"{}"}}"#, "[{\\\"".repeat(10_000)).into_bytes(), Some(r#"{"id":1}"#)),
        (format!(r#"{{"id":{}}}"#, "9".repeat(10_000)).into_bytes(), None),
        (format!(r#"{{"id":1,"other":{}}}"#, "9".repeat(10_000)).into_bytes(), Some(r#"{"id":1}"#)),
        (format!(r#"{{{}"id":1}}"#, r#""id":2,"#.repeat(10_000)).into_bytes(), Some(r#"{"id":1}"#)),
        (format!("{}{{\"id\":1}}{}", " \t\r\n".repeat(1_000), " \n".repeat(1_000)).into_bytes(), Some(r#"{"id":1}"#)),
    ];
    let all = text.chain(bytes).chain(made);
    all.map(|(payload, row)| HostileJson { payload, row }).collect()
}

const GOOD: &[(&str, &str)] = &[
    (r#"{"id":1}"#, r#"{"id":1}"#),
    (r#"  { "id" : -0 }  "#, r#"{"id":0}"#),
    (r#"{"id":1,"id":2}"#, r#"{"id":2}"#),
    (r#"{"name":"a","id":1,"name":null}"#, r#"{"id":1}"#),
    (r#"{"id":1,"tags":["a"],"tags":["b","c"]}"#, r#"{"id":1,"tags":["b","c"]}"#),
    (r#"{"id":1,"inner":{"x":1,"x":2,"y":[1]},"inner":{"x":3}}"#, r#"{"id":1,"inner":{"x":3,"y":null}}"#),
    (r#"{"\u0069d":7}"#, r#"{"id":7}"#),
    (r#"{"id":1.0}"#, r#"{"id":1}"#),
    (r#"{"id":1e3}"#, r#"{"id":1000}"#),
    (r#"{"id":9223372036854775807,"big":18446744073709551615}"#, r#"{"id":9223372036854775807,"big":18446744073709551615}"#),
    (r#"{"id":-9223372036854775808,"small":-128}"#, r#"{"id":-9223372036854775808,"small":-128}"#),
    (r#"{"id":1,"amount":1}"#, r#"{"id":1,"amount":1.0}"#),
    (r#"{"id":1,"amount":123456789012345678901234567890}"#, r#"{"id":1,"amount":1.2345678901234568e29}"#),
    (r#"{"id":1,"amount":5e-324}"#, r#"{"id":1,"amount":5e-324}"#),
    (r#"{"id":1,"amount":1e-400}"#, r#"{"id":1,"amount":0.0}"#),
    (r#"{"id":1,"amount":1.7976931348623157e308}"#, r#"{"id":1,"amount":1.7976931348623157e308}"#),
    (r#"{"id":1,"amount":0.30000000000000004}"#, r#"{"id":1,"amount":0.30000000000000004}"#),
    (r#"{"id":1,"ratio":0.5}"#, r#"{"id":1,"ratio":0.5}"#),
    (r#"{"id":1,"name":""}"#, r#"{"id":1,"name":""}"#),
    (r#"{"id":1,"name":"\u0000\u001f\"\\\/\b\f\n\r\t"}"#, r#"{"id":1,"name":"\u0000\u001f\"\\/\b\f\n\r\t"}"#),
    (r#"{"id":1,"name":"\ud83d\ude00 😀 é é"}"#, r#"{"id":1,"name":"😀 😀 é é"}"#),
    (r#"{"id":1,"name":"null"}"#, r#"{"id":1,"name":"null"}"#),
    (r#"{"id":1,"other":{"a":[1,{"b":null}]},"more":"x"}"#, r#"{"id":1}"#),
    (r#"{"id":1,"other":1e400}"#, r#"{"id":1}"#),
    (r#"{"id":1,"":1,"ID":2," id":3}"#, r#"{"id":1}"#),
    (r#"{"id":1,"ok":true,"tags":[],"inner":{}}"#, r#"{"id":1,"ok":true,"tags":[],"inner":{"x":null,"y":null}}"#),
    (r#"{"id":1,"tags":[null,"a",null]}"#, r#"{"id":1,"tags":[null,"a",null]}"#),
    (r#"{"id":1,"at":"2026-01-01T13:00:00.5+01:00"}"#, r#"{"id":1,"at":"2026-01-01T12:00:00.500Z"}"#),
    (r#"{"id":1,"at":"2026\u002d01-01T00:00:00Z"}"#, r#"{"id":1,"at":"2026-01-01T00:00:00Z"}"#),
    (r#"{"id":1,"at":1767268800000000}"#, r#"{"id":1,"at":"2026-01-01T12:00:00Z"}"#),
    (r#"{"id":1,"day":"2024-02-29"}"#, r#"{"id":1,"day":"2024-02-29"}"#),
    (r#"{"id":1,"price":-1234.5}"#, r#"{"id":1,"price":-1234.50}"#),
    (r#"{"id":1,"price":"0.10"}"#, r#"{"id":1,"price":0.10}"#),
    (r#"{"id":1,"inner":null,"tags":null,"ok":null,"at":null,"day":null,"price":null}"#, r#"{"id":1}"#),
];

const BAD: &[&str] = &[
    // No object, or not one.
    "", " ", "\n", "null", "true", "1", "\"id\"", "[]", "[{\"id\":1}]", "{}", r#"{"id":1}{"id":2}"#, r#"{"id":1}x"#, r#"{"id":1},"#,
    r#"{"id":1}]"#, r#"{"id":1}}"#, "hello", "\u{feff}{\"id\":1}", "{\"id\":1}\0", "\0", "{\0\"id\":1}", "// id\n{\"id\":1}",
    "/* id */{\"id\":1}", "{\"id\":1} // one", "<id>1</id>", "id: 1", "%7B%22id%22:1%7D",
    // Cut off.
    "{", "{\"", "{\"id", "{\"id\"", "{\"id\":", "{\"id\":1", "{\"id\":1,", "{\"id\":1,\"name\":\"a", "{\"id\":1,\"name\":\"\\",
    "{\"id\":1,\"name\":\"\\u12", "{\"id\":1,\"tags\":[", "{\"id\":1,\"tags\":[\"a\",", "{\"id\":1,\"inner\":{\"x\":", "{\"id\":1,\"other\":[1,2",
    "{\"id\":-", "{\"id\":1.", "{\"id\":1e", "{\"id\":tru",
    // Not quite JSON.
    "{id:1}", "{'id':1}", r#"{"id":1,}"#, r#"{,"id":1}"#, r#"{"id" 1}"#, r#"{"id"=1}"#, r#"{"id":1;"name":"a"}"#, r#"{"id":1 "name":"a"}"#,
    r#"{"id":01}"#, r#"{"id":+1}"#, r#"{"id":.5}"#, r#"{"id":1.}"#, r#"{"id":0x10}"#, r#"{"id":1_000}"#, r#"{"id":--1}"#, r#"{"id":1e+}"#,
    r#"{"id":NaN}"#, r#"{"id":1,"amount":NaN}"#, r#"{"id":1,"amount":Infinity}"#, r#"{"id":1,"amount":-Infinity}"#, r#"{"id":1,"ok":True}"#,
    r#"{"id":1,"name":undefined}"#, r#"{"id":1,"name":'a'}"#, r#"{"id":1,"tags":["a",]}"#, r#"{"id":1,"tags":[,"a"]}"#, r#"{"id":1,"tags":["a" "b"]}"#,
    "{\"id\":1,\"name\":\"a\nb\"}", "{\"id\":1,\"name\":\"a\tb\"}", "{\"id\":1,\"name\":\"a\0b\"}", r#"{"id":1,"name":"\x41"}"#, r#"{"id":1,"name":"\u12g4"}"#,
    r#"{"id":1,"name":"\ud83d"}"#, r#"{"id":1,"name":"\ude00\ud83d"}"#, r#"{"id":1,1:2}"#, r#"{"id":1,null:2}"#, r#"{"id":1,"other":[1,2}"#,
    r#"{"id":1,"other":{"a":1]}"#, r#"{"id":1,"other":nul}"#, r#"{"id":1,"other":01}"#, "{\"id\":1,\"other\":\"a\nb\"}", r#"{"id":1,"other":}"#,
    // Numbers that do not fit.
    r#"{"id":9223372036854775808}"#, r#"{"id":-9223372036854775809}"#, r#"{"id":1.5}"#, r#"{"id":1e400}"#, r#"{"id":9007199254740993.0}"#,
    r#"{"id":1,"small":128}"#, r#"{"id":1,"small":-129}"#, r#"{"id":1,"big":-1}"#, r#"{"id":1,"big":18446744073709551616}"#, r#"{"id":1,"amount":1e400}"#,
    r#"{"id":1,"amount":-1e999999999999999999999}"#, r#"{"id":1,"ratio":1e39}"#, r#"{"id":1,"price":10000}"#, r#"{"id":1,"price":0.001}"#,
    r#"{"id":1,"price":1e9999999999}"#, r#"{"id":1,"at":9223372036854775808}"#, r#"{"id":1,"inner":{"x":2147483648}}"#,
    // Values of another type.
    r#"{"id":null}"#, r#"{"name":"a"}"#, r#"{"id":"1"}"#, r#"{"id":true}"#, r#"{"id":[1]}"#, r#"{"id":{}}"#, r#"{"id":1,"name":1}"#, r#"{"id":1,"name":true}"#,
    r#"{"id":1,"name":["a"]}"#, r#"{"id":1,"name":{}}"#, r#"{"id":1,"amount":"1"}"#, r#"{"id":1,"amount":""}"#, r#"{"id":1,"ok":1}"#, r#"{"id":1,"ok":"true"}"#,
    r#"{"id":1,"tags":"a"}"#, r#"{"id":1,"tags":{}}"#, r#"{"id":1,"tags":[1]}"#, r#"{"id":1,"tags":[["a"]]}"#, r#"{"id":1,"inner":[]}"#, r#"{"id":1,"inner":1}"#,
    r#"{"id":1,"inner":"x"}"#, r#"{"id":1,"inner":{"x":"1"}}"#, r#"{"id":1,"inner":{"y":[null]}}"#, r#"{"id":1,"inner":{"y":[1,"a"]}}"#,
    // No times.
    r#"{"id":1,"at":"yesterday"}"#, r#"{"id":1,"at":"2026-01-01"}"#, r#"{"id":1,"at":"2026-01-01T12:00:00"}"#, r#"{"id":1,"at":"2026-02-30T00:00:00Z"}"#,
    r#"{"id":1,"at":"2026-01-01T25:00:00Z"}"#, r#"{"id":1,"at":1.5}"#, r#"{"id":1,"at":""}"#, r#"{"id":1,"at":true}"#, r#"{"id":1,"day":"2023-02-29"}"#,
    r#"{"id":1,"day":"2026-1-1"}"#, r#"{"id":1,"day":20260101}"#, r#"{"id":1,"day":"2026-01-01T00:00:00Z"}"#, r#"{"id":1,"price":"abc"}"#, r#"{"id":1,"price":"1,5"}"#,
    r#"{"id":1,"price":""}"#,
];

const BAD_BYTES: &[&[u8]] = &[
    b"\xff", b"\xff\xfe{\x00\"\x00", b"{\"id\":1,\"name\":\"\xff\"}", b"{\"id\":1,\"name\":\"\xc3\"}", b"{\"id\":1,\"name\":\"\xed\xa0\x80\"}",
    b"{\"id\":1,\"name\":\"\xc0\x80\"}", b"{\"id\":1,\"name\":\"\xf5\x80\x80\x80\"}", b"{\"id\":1,\"other\":\"\xff\"}", b"{\"\xff\":1,\"id\":1}",
    b"{\"id\":1}\xff", b"\x00\x00\x00\x08{\"id\":1}", b"\x1f\x8b\x08\x00\x00", b"\x81\xa2id\x01", b"\xef\xbb\xbf",
];
