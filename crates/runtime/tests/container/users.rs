crate::harness::tests!("users":);
