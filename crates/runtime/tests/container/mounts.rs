crate::harness::tests!("mounts":);
