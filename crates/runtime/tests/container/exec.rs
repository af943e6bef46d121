crate::harness::tests!("exec":);
