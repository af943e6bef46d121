crate::harness::tests!("namespaces":);
