//! Values of other formats into a [`Column`]: what each type takes, and the words for what it does not.

use super::column::{Column, Refusal, Shape, Values};
use super::number::{decimal, exact_int};
use crate::columnar::schema::describe_type;
use crate::columnar::{base64, temporal};

impl Column {
    /// Appends a truth value.
    pub(super) fn put_bool(&mut self, value: bool) -> Result<(), Refusal> {
        let Values::Bool(v) = &mut self.values else { return Err(self.refuse(value)) };
        v.append(value);
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends a whole number. Columns of times take microseconds, or what else they are declared to.
    pub(super) fn put_int(&mut self, value: i128) -> Result<(), Refusal> {
        macro_rules! push {
            ($values:expr) => {
                value.try_into().map(|value| $values.push(value)).is_ok()
            };
        }
        let fits = match &mut self.values {
            Values::Int8(v) => push!(v),
            Values::Int16(v) => push!(v),
            Values::Int32(v) => push!(v),
            Values::Int64(v) | Values::Duration(v) => push!(v),
            Values::Timestamp(v) => {
                let micros = value.checked_mul(self.unit.into()).and_then(|micros| i64::try_from(micros).ok());
                micros.map(|micros| v.push(micros)).is_some()
            }
            Values::UInt8(v) => push!(v),
            Values::UInt16(v) => push!(v),
            Values::UInt32(v) => push!(v),
            Values::UInt64(v) => push!(v),
            #[expect(clippy::cast_possible_truncation, reason = "a number that is declared floating-point is rounded")]
            Values::Float32(v) => {
                v.push(value as f64 as f32);
                true
            }
            Values::Float64(v) => {
                v.push(value as f64);
                true
            }
            Values::Decimal(..) => return self.put_decimal(&value.to_string()),
            _ => return Err(self.refuse(format_args!("the number {value}"))),
        };
        if !fits {
            return Err(self.out_of_range(value));
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends microseconds, whatever numbers stand for otherwise.
    pub(super) fn put_micros(&mut self, micros: i128) -> Result<(), Refusal> {
        let unit = std::mem::replace(&mut self.unit, 1);
        let put = self.put_int(micros);
        self.unit = unit;
        put
    }

    /// Appends a floating-point number; a column of whole numbers takes it if it is whole.
    pub(super) fn put_float(&mut self, value: f64) -> Result<(), Refusal> {
        match &mut self.values {
            Values::Float64(v) => v.push(value),
            #[expect(clippy::cast_possible_truncation, reason = "checked below")]
            Values::Float32(v) => {
                if value.is_finite() && !(value as f32).is_finite() {
                    return Err(self.out_of_range(value));
                }
                v.push(value as f32);
            }
            Values::Decimal(..) => return self.put_decimal(&value.to_string()),
            Values::Bool(_) | Values::Date(_) | Values::Text(_) | Values::Json(_) | Values::Binary(_) => {
                return Err(self.refuse(format_args!("the number {value}")));
            }
            Values::List(..) | Values::Struct(_) => return Err(self.refuse(format_args!("the number {value}"))),
            _ => match exact_int(value) {
                Some(whole) => return self.put_int(whole.into()),
                None => return Err(self.refuse(format_args!("the number {value}"))),
            },
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends a number as it is written in JSON.
    pub(super) fn put_number(&mut self, text: &str) -> Result<(), Refusal> {
        match &mut self.values {
            Values::Float64(v) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => v.push(value),
                _ => return Err(self.out_of_range(text)),
            },
            // Not by way of 64 bits, which would round twice.
            Values::Float32(v) => match text.parse::<f32>() {
                Ok(value) if value.is_finite() => v.push(value),
                _ => return Err(self.out_of_range(text)),
            },
            Values::Int64(v) => match text.parse() {
                Ok(value) => v.push(value),
                Err(_) => return self.put_odd_number(text),
            },
            Values::Decimal(..) => return self.put_decimal(text),
            _ => return self.put_odd_number(text),
        }
        self.valid.append_non_null();
        Ok(())
    }

    fn put_odd_number(&mut self, text: &str) -> Result<(), Refusal> {
        if self.shape() != Shape::Scalar || matches!(self.values, Values::Bool(_) | Values::Date(_) | Values::Binary(_))
        {
            return Err(self.refuse(format_args!("the number {text}")));
        }
        if let Ok(value) = text.parse::<i64>() {
            return self.put_int(value.into());
        }
        if let Ok(value) = text.parse::<i128>() {
            return self.put_int(value);
        }
        let whole = !text.contains(['.', 'e', 'E']);
        match text.parse::<f64>().ok().and_then(exact_int) {
            Some(value) if !whole => self.put_int(value.into()),
            _ if whole => Err(self.out_of_range(text)),
            _ => Err(self.refuse(format_args!("the number {text}"))),
        }
    }

    fn put_decimal(&mut self, text: &str) -> Result<(), Refusal> {
        let Values::Decimal(v, precision, scale) = &mut self.values else { return Err(self.refuse(text)) };
        match decimal(text, *precision, *scale) {
            Ok(value) => v.push(value),
            Err(why) => return Err(format!("`{}` is {}, and {text} {why}", self.path, describe_type(&self.data_type))),
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends text; columns of times, dates, decimals and bytes read it.
    pub(super) fn put_text(&mut self, text: &str) -> Result<(), Refusal> {
        let read = match &mut self.values {
            Values::Text(v) => {
                v.bytes.extend_from_slice(text.as_bytes());
                v.close()?;
                true
            }
            Values::Date(v) => temporal::parse_date(text).map(|day| v.push(day)).is_some(),
            Values::Timestamp(v) => temporal::parse_timestamp(text).map(|at| v.push(at)).is_some(),
            Values::Decimal(..) => return self.put_decimal(text),
            Values::Binary(v) => {
                let read = base64::decode(text, &mut v.bytes).is_some();
                if read {
                    v.close()?;
                }
                read
            }
            _ => false,
        };
        if !read {
            let shown: String = text.chars().take(40).collect();
            let help = match self.values {
                Values::Timestamp(_) => ": write it as 2026-01-31T12:00:00Z, with its zone",
                Values::Date(_) => ": write it as 2026-01-31",
                Values::Binary(_) => ": write it in base64",
                _ => "",
            };
            return Err(self.refuse(format_args!("the text {shown:?}{help}")));
        }
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends bytes.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let Values::Binary(v) = &mut self.values else {
            return Err(self.refuse(format_args!("{} bytes that are no text", bytes.len())));
        };
        v.bytes.extend_from_slice(bytes);
        v.close()?;
        self.valid.append_non_null();
        Ok(())
    }

    /// Appends a value as its JSON text.
    pub(super) fn put_json(&mut self, json: &str) -> Result<(), Refusal> {
        let Values::Json(v) = &mut self.values else { return Err(self.refuse("json")) };
        v.bytes.extend_from_slice(json.as_bytes());
        v.close()?;
        self.valid.append_non_null();
        Ok(())
    }
}
