//! The `slotmesh-host` program.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

/// A directory of one test, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a guest that accepts the configuration `good` and logs why it rejects any other.
    fn command(&self, configuration: &str) -> Command {
        self.command_on("127.0.0.1:0", configuration)
    }

    fn command_on(&self, address: &str, configuration: &str) -> Command {
        let wasm = wat::parse_str(
            r#"(module
              (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
              (memory (export "memory") 1)
              (data (i32.const 0) "field `listen`: unknown")
              (func (export "proxy_abi_version_0_2_1"))
              (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 64))
              (func (export "proxy_on_configure") (param i32 i32) (result i32)
                (if (i32.gt_u (local.get 1) (i32.const 4)) (then
                  (drop (call $log (i32.const 4) (i32.const 0) (i32.const 23)))
                  (return (i32.const 0))))
                (i32.const 1)))"#,
        );
        fs::write(self.0.join("guest.wasm"), wasm.unwrap()).unwrap();
        fs::write(self.0.join("plugin.json"), configuration).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_slotmesh-host"));
        command.current_dir(&self.0).args(["--wasm", "guest.wasm", "--config", "plugin.json"]);
        command.args(["--listen", address]);
        command
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A started program, killed if the test fails.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn failure(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

#[test]
fn it_serves_when_it_says_so_and_ends_cleanly_on_either_signal() {
    for signal in ["-INT", "-TERM"] {
        let directory = Directory::new(&format!("serve{signal}"));
        let mut command = directory.command("good");
        let mut program = Program(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut ready = String::new();
        BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let address = ready.trim_end().strip_prefix("listening on ").expect(&ready);
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"echo").unwrap();
        let mut reply = [0; 4];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"echo");
        let pid = program.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        assert!(program.0.wait().unwrap().success());
    }
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let directory = Directory::new("taken");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let stderr = failure(&mut directory.command_on(&taken, "good"));
    drop(holder);
    assert!(stderr.contains(&format!("{taken} is taken")), "{stderr}");
    assert!(stderr.contains("--listen"), "{stderr}");
}

#[test]
fn a_missing_file_is_named() {
    let directory = Directory::new("missing");
    let mut command = directory.command("good");
    fs::remove_file(directory.0.join("guest.wasm")).unwrap();
    assert!(failure(&mut command).contains("cannot read guest.wasm"));
    let mut command = directory.command("good");
    fs::remove_file(directory.0.join("plugin.json")).unwrap();
    assert!(failure(&mut command).contains("cannot read plugin.json"));
}

#[test]
fn a_rejected_configuration_is_explained_by_the_plugins_log() {
    let directory = Directory::new("rejected");
    let stderr = failure(&mut directory.command("not good"));
    assert!(stderr.contains("router: field `listen`: unknown"), "{stderr}");
    assert!(stderr.contains("the plugin `router` rejected its configuration"), "{stderr}");
}
