//! millstream-examples
