//! Several nodes, simulated by network namespaces with only TCP between them.

use std::process::{Command, Stdio};

use super::{outcome, sandbox};
use crate::support::Outcome;

/// Number of nodes, with one rank each.
const NODES: usize = 4;

/// A bridge with a namespace for each node, removed at the end.
struct Network(String);

impl Network {
    fn new() -> Self {
        let name = format!("vit{}", std::process::id() % 10_000);
        let network = Self(name.clone());
        let subnet = "10.77.0";
        let mut lines = vec![
            format!("ip link add {name}b type bridge"),
            format!("ip addr add {subnet}.254/24 dev {name}b"),
            format!("ip link set {name}b up"),
        ];
        for node in 1..=NODES {
            let (space, outer) = (format!("{name}n{node}"), format!("{name}v{node}"));
            lines.extend([
                format!("ip netns add {space}"),
                format!("ip link add {outer} type veth peer name eth0 netns {space}"),
                format!("ip link set {outer} master {name}b up"),
                format!("ip -n {space} addr add {subnet}.{node}/24 dev eth0"),
                format!("ip -n {space} link set eth0 up"),
                format!("ip -n {space} link set lo up"),
            ]);
        }
        for line in lines {
            assert!(succeeds(&line), "{line}");
        }
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 1..=NODES {
            succeeds(&format!("ip netns del {}n{node}", self.0));
            succeeds(&format!("ip link del {}v{node}", self.0));
        }
        succeeds(&format!("ip link del {}b", self.0));
    }
}

fn succeeds(line: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
#[ignore = "needs network namespaces; cargo xtask test-mpi runs it where they can be created"]
fn four_nodes_over_tcp_are_bit_identical_to_one_process() {
    let network = Network::new();
    let sandbox = sandbox();
    let words = "-q train --config small.toml --save-every 4 --run-dir";
    sandbox.run(&format!("{words} alone")).succeeded();
    // Replaces ssh for mpirun. The nodes share a file system: in one folder, their daemons would overwrite each other's
    // files.
    let agent = format!(
        "#!/bin/sh
        node=${{1##*.}}; shift
        export TMPDIR=$PWD/node$node; mkdir -p $TMPDIR
        exec ip netns exec {}n$node sh -c \"$*\"\n",
        network.0
    );
    sandbox.write("agent", agent);
    succeeds(&format!("chmod +x {}", sandbox.path("agent").display()));
    let agent = sandbox.path("agent").display().to_string();
    let hosts: Vec<String> = (1..=NODES).map(|node| format!("10.77.0.{node}")).collect();
    let (hosts, count) = (hosts.join(","), NODES.to_string());
    let subnet = "10.77.0.0/24";
    let line = [
        &["--allow-run-as-root", "--bind-to", "none", "--host", &*hosts, "-n", &*count][..],
        &["--mca", "plm_rsh_agent", &*agent, "--mca", "btl", "self,tcp", "--mca", "pml", "ob1"],
        &["--mca", "btl_tcp_if_include", subnet, "--mca", "oob_tcp_if_include", subnet],
    ]
    .concat();
    let output = sandbox.command_by("mpirun", &line, &format!("{words} nodes")).output().unwrap();
    Outcome::of(&output).succeeded();
    assert_eq!(outcome(&sandbox, "nodes"), outcome(&sandbox, "alone"));
}
