//! Every format, good payloads and bad ones, whole and cut.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::columnar::steps::{Step, steps_do_not_matter};
use crate::columnar::tests::{at_port, ints, joined, lines, refused, rejected, run};
use crate::columnar::{HOSTILE_COLUMNS, hostile_json, schema};
use crate::testkit::Bench;
use crate::{Headers, Origin, Timestamp};

fn messages(payloads: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Batch<Vec<Bytes>> {
    let numbered = (1..).zip(payloads);
    let rows: Vec<_> = numbered.map(|(n, payload)| (n, Bytes::from(payload.into()))).collect();
    let origin = |(n, payload): &(i64, Bytes)| {
        let mut headers = Headers::default();
        headers.push("trace", &format!("t{n}")).unwrap();
        Origin {
            sequence: u64::try_from(*n).unwrap(),
            stored_at: Timestamp::from_micros(*n),
            headers,
            payload: payload.clone(),
            subject_bytes: format!("in.{n}").into(),
        }
    };
    let origins = Origins::one_each(Arc::default(), rows.iter().map(origin).collect::<Vec<_>>());
    let batch: Batch<Vec<Bytes>> = rows.into_iter().map(|(n, payload)| (Timestamp::from_micros(n), payload)).collect();
    batch.with_origins(origins).unwrap().weighing(1_000)
}

fn decode(format: DecodeFormat, columns: &[(&str, &str)]) -> Decode {
    Decode::new(format, Some(&schema(columns.iter().copied()).unwrap())).unwrap()
}

#[test]
fn a_message_that_is_no_row_is_rejected_and_the_others_are_read() {
    let all = [r#"{"n":1}"#, r#"{"n":"x"}"#, r#"{"n":3,"m":4}"#];
    let make = || decode(DecodeFormat::Json, &[("n", "int64")]);
    for (decode, rows, bad) in [(make(), &[1, 3][..], &all[1..2]), (make().strict(), &[1][..], &all[1..])] {
        let mut bench = Bench::new(decode);
        bench.batch(messages(all));
        let given = bench.take_batches().remove(0);
        assert_eq!(ints(given.rows(), "n"), rows);
        assert_eq!(given.origins().unwrap().get(rows.len() - 1).unwrap().sequence, rows[rows.len() - 1] as u64);
        assert_eq!(refused(&mut bench, 1).into_iter().map(|(row, _)| row).collect::<Vec<_>>(), bad);
    }
}

/// Floats compare as numbers, as their texts may differ.
fn expected_row(row: &str) -> Value {
    let given: Value = serde_json::from_str(row).unwrap();
    let all =
        HOSTILE_COLUMNS.iter().map(|(name, _)| ((*name).to_owned(), given.get(*name).cloned().unwrap_or(Value::Null)));
    Value::Object(all.collect())
}

#[test]
fn all_good_rows_arrive_and_all_bad_ones_are_rejected() {
    let corpus = hostile_json();
    assert!(corpus.len() >= 150, "{}", corpus.len());
    let batch = messages(corpus.iter().map(|case| case.payload.clone()));
    let mut taken = run(&mut decode(DecodeFormat::Json, &HOSTILE_COLUMNS), [batch]);
    let good = at_port::<RecordBatch>(&mut taken, 0).remove(0);
    let bad = at_port::<Vec<Rejected<Bytes>>>(&mut taken, 1).remove(0);
    let mut outcome: Vec<Option<Result<Value, String>>> = vec![None; corpus.len()];
    let place = |sequence: u64| usize::try_from(sequence - 1).unwrap();
    for (row, value) in lines(good.rows()).into_iter().enumerate() {
        outcome[place(good.origins().unwrap().get(row).unwrap().sequence)] = Some(Ok(value));
    }
    for (row, rejected) in bad.rows().iter().enumerate() {
        let origin = bad.origins().unwrap().get(row).unwrap();
        assert_eq!((&rejected.row, rejected.cause.code), (&origin.payload, Code::Decode));
        let offset = usize::try_from(rejected.cause.offset.unwrap()).unwrap();
        assert!(offset <= rejected.row.len() && !rejected.cause.message.is_empty());
        assert_eq!(bad.times()[row].as_micros(), i64::try_from(origin.sequence).unwrap());
        outcome[place(origin.sequence)] = Some(Err(rejected.cause.to_string()));
    }
    let mut wrong = Vec::new();
    for (case, outcome) in corpus.iter().zip(outcome) {
        let payload: String = String::from_utf8_lossy(&case.payload).chars().take(80).collect();
        let fine = match (&case.row, &outcome) {
            (Some(row), Some(Ok(value))) => expected_row(row) == *value,
            (None, Some(Err(_))) => true,
            _ => false,
        };
        if !fine {
            wrong.push(format!("{payload}: {outcome:?} instead of {:?}", case.row));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn refusals_say_what_and_where() {
    let columns = [("id", "int64 not null"), ("s", "struct<t: list<int8>>"), ("at", "timestamp"), ("name", "utf8")];
    for (payload, words, offset) in [
        (r#"{"id":"x"}"#, "`id` must be int64, not the text \"x\"", 8..10),
        (r#"{"id":1,"s":{"t":[1,true]}}"#, "`s.t[]` must be int8, not true", 20..26),
        (r#"{"id":1,"s":{"t":[300]}}"#, "`s.t[]` is int8, and 300 does not fit", 18..23),
        (r#"{"s":null}"#, "`id` is missing", 10..11),
        (r#"{"id":null}"#, "`id` must not be null", 6..11),
        ("{\"id\":1,\n\n \"at\":\"noon\"}", "write it as 2026-01-31T12:00:00Z, with its zone", 17..24),
        (r#"{"id":1} x"#, "trailing characters", 9..10),
        (r#"{"id":1,"#, "EOF", 8..9),
        ("", "the message is empty", 0..1),
        ("nonsense", "this is not valid JSON: expected ident", 0..2),
        ("{\"id\":1,\"name\":\"\u{feff}\"}[", "trailing", 21..22),
        (r#"[1]"#, "expected an object", 0..3),
        (r#"{"id":1,"name":7}"#, "`name` must be utf8, not the number 7", 15..17),
    ] {
        let mut taken = run(&mut decode(DecodeFormat::Json, &columns), [messages([payload])]);
        let cause = at_port::<Vec<Rejected<Bytes>>>(&mut taken, 1).remove(0).rows()[0].cause.clone();
        assert!(cause.message.contains(words), "{payload}: {cause}");
        assert!(offset.contains(&usize::try_from(cause.offset.unwrap()).unwrap()), "{payload}: {cause}");
    }
}

#[test]
fn lines_stand_for_themselves() {
    let payloads = [
        "{\"n\":1}\n{\"n\":2}\r\n\n{\"n\":x}\n  {\"n\":3}",
        "",
        "{\"n\":4}\n",
        "{\"n\":1} {\"n\":2}",
        "\n\n",
        "{\"n\":\n5}",
    ];
    let mut taken = run(&mut decode(DecodeFormat::Ndjson, &[("n", "int64")]), [messages(payloads)]);
    let good = at_port::<RecordBatch>(&mut taken, 0).remove(0);
    assert_eq!(crate::columnar::tests::ints(good.rows(), "n"), [1, 2, 3, 4]);
    assert_eq!(good.origins().unwrap().of_row(), [0, 0, 0, 2]);
    assert_eq!(good.times().iter().map(|time| time.as_micros()).collect::<Vec<_>>(), [1, 1, 1, 3]);
    assert_eq!(good.weight(), 1_000);
    let bad = at_port::<Vec<Rejected<Bytes>>>(&mut taken, 1).remove(0);
    let told: Vec<_> = bad.rows().iter().map(|r| (&r.row[..], r.cause.offset.unwrap())).collect();
    assert_eq!(
        told,
        [(&b"{\"n\":x}"[..], 23), (b"", 0), (b"{\"n\":1} {\"n\":2}", 8), (b"\n\n", 0), (b"{\"n\":", 5), (b"5}", 6)]
    );
}

#[test]
fn columns_about_the_message_stand_behind_the_others() {
    let meta =
        |meta: &[(&str, Meta)]| meta.iter().map(|(name, meta)| ((*name).to_owned(), meta.clone())).collect::<Vec<_>>();
    let all = meta(&[
        ("subject", Meta::Subject),
        ("seq", Meta::Sequence),
        ("stored", Meta::Time),
        ("trace", Meta::Header("trace".into())),
        ("none", Meta::Header("x".into())),
    ]);
    let mut with = decode(DecodeFormat::Ndjson, &[("n", "int64")]).with_meta(all).unwrap();
    let rows = joined(&mut run(&mut with, [messages(["{\"n\":1}\n{\"n\":2}", "{}"])]), 0).unwrap();
    let about = |n: Value, m: i64| json!({"n": n, "subject": format!("in.{m}"), "seq": m, "stored": format!("1970-01-01T00:00:00.00000{m}Z"), "trace": format!("t{m}"), "none": null});
    assert_eq!(lines(&rows), [about(json!(1), 1), about(json!(2), 1), about(json!(null), 2)]);
    assert_eq!(rows.schema(), *with.schema());
    let without = messages(["{}"]).into_parts();
    let batch = Batch::new(without.times.into_vec(), without.rows).unwrap();
    assert_eq!(lines(&joined(&mut run(&mut with, [batch]), 0).unwrap())[0]["seq"], json!(null));
    assert!(decode(DecodeFormat::Json, &[("seq", "int64")]).with_meta(meta(&[("seq", Meta::Sequence)])).is_err());
}

#[test]
fn strict_schemas_reject_what_they_do_not_name() {
    let mut strict = decode(DecodeFormat::Json, &[("n", "int64"), ("s", "struct<a: bool>")]).strict();
    let mut taken = run(&mut strict, [messages([r#"{"n":1}"#, r#"{"n":1,"m":2}"#, r#"{"s":{"b":1}}"#])]);
    assert_eq!(joined(&mut taken, 0).unwrap().num_rows(), 1);
    let told = rejected(&mut taken, 1);
    assert!(told[0].1.contains("\"m\"") && told[1].1.contains("\"b\""), "{told:?}");
}

#[test]
fn text_and_bytes_are_whole_messages() {
    let payloads = || messages([&b"plain"[..], b"", b"\xffx"]);
    let mut taken = run(&mut Decode::new(DecodeFormat::Text, None).unwrap(), [payloads()]);
    assert_eq!(lines(&joined(&mut taken, 0).unwrap()), [json!({"value": "plain"}), json!({"value": ""})]);
    assert_eq!(rejected(&mut taken, 1)[0].1, "the text is not valid UTF-8 at byte 0");
    let rows = joined(&mut run(&mut Decode::new(DecodeFormat::Raw, None).unwrap(), [payloads()]), 0).unwrap();
    assert_eq!(lines(&rows), [json!({"value": "706c61696e"}), json!({"value": ""}), json!({"value": "ff78"})]);
    assert!(Decode::new(DecodeFormat::Json, None).is_err());
    assert!(Decode::new(DecodeFormat::Text, Some(&schema([("a", "int8")]).unwrap())).is_err());
}

#[test]
fn message_pack_is_read_by_the_same_rules() {
    let columns = [
        ("n", "int8"),
        ("f", "float64"),
        ("t", "utf8"),
        ("b", "binary"),
        ("at", "timestamp"),
        ("l", "list<bool>"),
        ("j", "json"),
        ("s", "struct<x: uint64>"),
    ];
    let value = json!({"n": -5, "f": 1, "t": "x", "l": [true, null], "j": {"a": [1]}, "s": {"x": u64::MAX}, "other": [1, {"a": 2}], "at": 7});
    let stamp = |data: &[u8], kind: u8| [&[0x81, 0xa2, b'a', b't', kind, 0xff][..], data].concat();
    let good = [
        rmp_serde::to_vec(&value).unwrap(),
        stamp(&[0, 0, 0, 2], 0xd6),
        stamp(&(500_000_000u64 << 34 | 1).to_be_bytes(), 0xd7),
        vec![0x81, 0xa1, b'b', 0xc4, 2, 0xff, 0],
        vec![0x80],
    ];
    let bad = [
        vec![],
        vec![0x81, 0xa1, b'n', 0xcc, 200],
        vec![0x81, 0xa1, b'n'],
        vec![0x80, 0x00],
        vec![0x91, 0x01],
        vec![0xc1],
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0x81, 0xa1, b't', 0xdb, 0xff, 0xff, 0xff, 0xff, b'x'],
        vec![0x81, 0xa1, b't', 0xa1, 0xff],
        vec![0x81, 0xa1, b'x'].into_iter().chain([0x91; 100_000]).collect(),
        vec![0x81, 0xa1, b'l', 0xdd, 0xff, 0xff, 0xff, 0xff, 0xc3],
        stamp(&[0, 0, 0, 2], 0xc7),
        vec![0x81, 0xa2, b'a', b't', 0xd4, 0x05, 0x00],
        vec![0x81, 0x01, 0x02],
        vec![0x81, 0xa1, b'n', 0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0],
    ];
    let mut taken = run(&mut decode(DecodeFormat::Msgpack, &columns), [messages(good.iter().chain(&bad).cloned())]);
    let null = json!({"n": null, "f": null, "t": null, "b": null, "at": null, "l": null, "j": null, "s": null});
    let with = |key: &str, value: Value| {
        let mut row = null.clone();
        row[key] = value;
        row
    };
    let mut first = null.clone();
    for (key, value) in [
        ("n", json!(-5)),
        ("f", json!(1.0)),
        ("t", json!("x")),
        ("at", json!("1970-01-01T00:00:00.000007Z")),
        ("l", json!([true, null])),
        ("j", json!(r#"{"a":[1]}"#)),
        ("s", json!({"x": u64::MAX})),
    ] {
        first[key] = value;
    }
    assert_eq!(
        lines(&joined(&mut taken, 0).unwrap()),
        [
            first,
            with("at", json!("1970-01-01T00:00:02Z")),
            with("at", json!("1970-01-01T00:00:01.500Z")),
            with("b", json!("ff00")),
            null.clone()
        ]
    );
    assert_eq!(rejected(&mut taken, 1).len(), bad.len());
}

#[test]
fn arrow_streams_give_their_rows_or_are_rejected_whole() {
    let rows = crate::columnar::tests::rows(&[("n", "int64")], &["{\"n\":1}", "{}"]).into_parts().rows;
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), rows.schema_ref()).unwrap();
    (0..3).for_each(|_| writer.write(&rows).unwrap());
    let stream = writer.into_inner().unwrap();
    let batch = messages([stream.clone(), stream[..stream.len() / 2].to_vec(), stream]);
    let mut taken = run(&mut decode(DecodeFormat::ArrowIpc, &[("n", "int64")]), [batch]);
    let good = at_port::<RecordBatch>(&mut taken, 0).remove(0);
    assert_eq!(good.origins().unwrap().of_row(), [0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2]);
    assert_eq!(rejected(&mut taken, 1).len(), 1);
}

#[test]
fn messages_of_many_rows_come_in_parts() {
    let big = "{\"n\":1}\n".repeat(20_000);
    let mut taken = run(&mut decode(DecodeFormat::Ndjson, &[("n", "int64")]), [messages([big.as_str(), "{\"n\":2}"])]);
    let batches = at_port::<RecordBatch>(&mut taken, 0);
    assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [8_192, 8_192, 3_617]);
    assert_eq!(batches.iter().map(Batch::weight).sum::<usize>(), 1_000);
}

proptest! {
    #[test]
    fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted(format in prop::sample::select(vec![DecodeFormat::Json, DecodeFormat::Ndjson, DecodeFormat::Msgpack]), seed: u64) {
        let batch = messages(hostile_json().into_iter().filter(|case| case.payload.len() < 1_000).map(|case| case.payload));
        let told = steps_do_not_matter(|| decode(format, &HOSTILE_COLUMNS), &[Step::Rows(batch)], seed);
        prop_assert!(!told.port(1).is_empty());
    }

    #[test]
    fn no_bytes_can_break_a_decoder(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20), format in prop::sample::select(vec![DecodeFormat::Json, DecodeFormat::Ndjson, DecodeFormat::Msgpack, DecodeFormat::ArrowIpc, DecodeFormat::Text])) {
        let columns = if format == DecodeFormat::Text { &[("t", "utf8")][..] } else { &HOSTILE_COLUMNS[..] };
        run(&mut decode(format, columns), [messages(payloads)]);
    }

    #[test]
    fn what_json_wrote_is_read_again(id in any::<i64>(), name in any::<Option<String>>(), amount in any::<f64>(), ratio in any::<f32>(), tags in any::<Vec<Option<String>>>(), at in -62_135_596_800_000_000i64..253_402_300_800_000_000, day in -700_000i32..2_900_000) {
        let payload = serde_json::to_vec(&json!({"id": id, "name": name, "amount": amount.is_finite().then_some(amount), "ratio": ratio.is_finite().then_some(ratio), "tags": tags, "at": at, "day": crate::columnar::temporal::Date(day).to_string()})).unwrap();
        let first = joined(&mut run(&mut decode(DecodeFormat::Json, &HOSTILE_COLUMNS), [messages([payload])]), 0).unwrap();
        let encoding = crate::columnar::Encoding { format: crate::columnar::EncodeFormat::Json, times: crate::columnar::EncodeTimes::Usual, subject: None, headers: vec![], max_size: 1 << 20, limit: crate::SizeLimit::default(), lines: false };
        let mut encode = crate::columnar::Encode::new(&first.schema(), encoding).unwrap();
        let sent = at_port::<Vec<crate::Record>>(&mut run(&mut encode, [Batch::at(Timestamp::MIN, first.clone())]), 0).remove(0);
        let payload = sent.rows()[0].payload.to_vec();
        let second = joined(&mut run(&mut decode(DecodeFormat::Json, &HOSTILE_COLUMNS), [messages([payload])]), 0).unwrap();
        prop_assert_eq!(first, second);
    }
}

#[test]
fn what_stands_in_the_place_of_messages_that_are_gone_is_rejected_whatever_it_is() {
    let origin = Origin { sequence: 7, ..Origin::default() };
    let batch = Batch::new(vec![Timestamp::from_micros(1)], vec![Bytes::from_static(b"{}")]).unwrap();
    let batch = batch.with_origins(Origins::of_gap(Arc::default(), origin, "7 to 9 are gone")).unwrap();
    let mut taken = run(&mut decode(DecodeFormat::Json, &[("a", "int64")]), [batch]);
    assert!(at_port::<RecordBatch>(&mut taken, 0).is_empty());
    let bad = at_port::<Vec<Rejected<Bytes>>>(&mut taken, 1).remove(0);
    assert_eq!((bad.rows()[0].cause.code, bad.rows()[0].cause.message.as_str()), (Code::Gap, "7 to 9 are gone"));
}
