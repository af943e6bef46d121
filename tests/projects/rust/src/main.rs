fn main() {
    let mut buffer = itoa::Buffer::new();
    println!("Hello from Rust, {}", buffer.format(42));
}
