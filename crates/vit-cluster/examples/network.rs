//! Measures the collectives of a training step, for the model in `docs/book/cluster.md`: `mpirun -n 2
//! target/release/examples/network`. Rank 0 prints a line for each number of parameters.

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::{Duration, Instant};

use vit_cluster::{Error, Launch, World};
use vit_train::Collective;

const PARAMETERS: [usize; 5] = [1, 1_000, 40_330, 1_000_000, 5_717_416];
const ROUNDS: usize = 200;

fn main() -> Result<(), Error> {
    let Some(launch) = Launch::of_environment() else {
        println!("expected several ranks, got one: start it with mpirun");
        return Ok(());
    };
    let ranks = World::join(&launch)?;
    let size = ranks.size();
    for parameters in PARAMETERS {
        let slice = parameters.div_ceil(size);
        let counts = vec![slice; size];
        let (send, mine) = (vec![1; slice * size], vec![1; slice]);
        let mut receive = vec![0; slice * size];
        let mut exchanges = Vec::with_capacity(ROUNDS);
        let mut gathers = Vec::with_capacity(ROUNDS);
        let mut broadcasts = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            ranks.exchange((&send, &counts), (&mut receive, &counts));
            exchanges.push(begun.elapsed());
            let begun = Instant::now();
            ranks.gather(&mine, &mut receive, &counts);
            gathers.push(begun.elapsed());
            let begun = Instant::now();
            ranks.broadcast(&mut [0; 3]);
            broadcasts.push(begun.elapsed());
        }
        if ranks.rank() == 0 {
            let [exchange, gather, broadcast] = [exchanges, gathers, broadcasts].map(median);
            println!(
                "{parameters} parameters: exchange {exchange:.1} us, gather {gather:.1} us, broadcast {broadcast:.1} us"
            );
        }
    }
    ranks.leave();
    Ok(())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
