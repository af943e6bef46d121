//! Pull from and push to registries.
