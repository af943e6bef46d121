//! What crosses the wire: types, errors, filters, stream framing, versions.
