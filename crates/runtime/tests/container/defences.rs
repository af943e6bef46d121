crate::harness::tests!("defences":);
