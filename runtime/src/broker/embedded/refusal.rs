//! Refusals: the errors of the JetStream API, with the server's codes and words.

use crate::broker::{ApiError, codes};

/// A refusal, after HTTP's class and JetStream's own code.
pub(super) fn refusal(code: u16, err_code: u16, description: impl Into<String>) -> ApiError {
    ApiError { code, err_code, description: description.into() }
}

pub(super) fn bad_request() -> ApiError {
    refusal(400, codes::BAD_REQUEST, "bad request")
}

pub(super) fn bad_json(why: impl std::fmt::Display) -> ApiError {
    refusal(400, 10025, format!("invalid JSON: {why}"))
}

pub(super) fn no_stream() -> ApiError {
    refusal(404, codes::STREAM_NOT_FOUND, "stream not found")
}

pub(super) fn no_consumer() -> ApiError {
    refusal(404, codes::CONSUMER_NOT_FOUND, "consumer not found")
}

pub(super) fn no_message() -> ApiError {
    refusal(404, codes::NO_MESSAGE, "no message found")
}

pub(super) fn stream_config(why: impl Into<String>) -> ApiError {
    refusal(500, 10052, why)
}

pub(super) fn consumer_config(why: impl Into<String>) -> ApiError {
    refusal(500, codes::CONSUMER_CONFIG, why)
}

pub(super) fn name_mismatch() -> ApiError {
    refusal(400, 10056, "stream name in subject does not match request")
}

pub(super) fn wrong_last(seq: u64) -> ApiError {
    refusal(400, codes::WRONG_LAST_SEQUENCE, format!("wrong last sequence: {seq}"))
}
