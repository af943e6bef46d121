use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let store = berth_store::Store::open(args[1].as_ref()).unwrap();
    for round in 0..args[3].parse::<usize>().unwrap() {
        let mut file: Box<dyn std::io::Read> = Box::new(std::fs::File::open(&args[2]).unwrap());
        let start = Instant::now();
        let images = store.load(&mut file, &mut |_| {}).unwrap();
        let load = start.elapsed();
        let start = Instant::now();
        store.remove(&images[0].id, true, &|_| None).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
            .to_owned();
        println!(
            "{round} {} load {load:?} remove {:?} {peak}",
            args[2],
            start.elapsed()
        );
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
}
