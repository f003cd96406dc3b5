// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real servers on ports and in folders of their own: nginx, docker-registry, and moto, which
//! speaks S3. Each ends, with all of its processes, when its guard is dropped.
//!
//! What is not installed is an error of kind `NotFound`; `scripts/setup.sh` installs it. A test
//! asks [`available`], which says `skipped:` and never does so in CI.

use super::certificate::ServerCertificate;
use std::fs::{File, create_dir_all, write};
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: a loaded machine starts Python slowly.
const START_MAX: Duration = Duration::from_secs(60);

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct Component {
    address: SocketAddr,
    process: Child,
    folder: tempfile::TempDir,
}

impl Component {
    /// nginx, which serves the files below `root` with ranges.
    pub fn nginx(root: &Path) -> Result<Self> {
        let program = find("nginx", &["/usr/sbin/nginx"])?;
        Self::start(|address, folder| {
            let root = root.display();
            let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
            let config = format!(
                "daemon off; master_process off; pid nginx.pid; error_log stderr; {user}\n\
                 worker_processes 1; events {{ worker_connections 512; }}\n\
                 http {{ access_log off; keepalive_requests 100000;\n\
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
                 server {{ listen {address}; root \"{root}\"; }} }}\n"
            );
            write(folder.join("nginx.conf"), config)?;
            let mut command = Command::new(&program);
            command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]);
            command.arg(folder.join("nginx.conf"));
            Ok(command)
        })
    }

    /// nginx before another server, for those who speak TLS; `of` is what it shows them.
    pub fn tls(of: &ServerCertificate, upstream: SocketAddr) -> Result<Self> {
        let program = find("nginx", &["/usr/sbin/nginx"])?;
        let ServerCertificate { certificate, key } = of;
        Self::start(|address, folder| {
            let (certificate, key) = (certificate.display(), key.display());
            let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
            let config = format!(
                "daemon off; master_process off; pid nginx.pid; error_log stderr; {user}\n\
                 worker_processes 1; events {{ worker_connections 512; }}\n\
                 http {{ access_log off; keepalive_requests 100000; client_max_body_size 0;\n\
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
                 server {{ listen {address} ssl; ssl_certificate {certificate};\n\
                 ssl_certificate_key {key};\n\
                 location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1;\n\
                 proxy_set_header Host $http_host; proxy_buffering off;\n\
                 proxy_redirect off; }} }} }}\n"
            );
            write(folder.join("nginx.conf"), config)?;
            let mut command = Command::new(&program);
            command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]);
            command.arg(folder.join("nginx.conf"));
            Ok(command)
        })
    }

    /// An empty registry without credentials that keeps its blobs in its folder.
    pub fn registry() -> Result<Self> {
        let program = find("docker-registry", &["/usr/bin/docker-registry"])?;
        Self::start(|address, folder| {
            let data = folder.join("data");
            create_dir_all(&data)?;
            let config = format!(
                "version: 0.1\nlog: {{ level: error }}\nstorage:\n  delete: {{ enabled: true }}\n  \
                 filesystem: {{ rootdirectory: \"{}\" }}\nhttp:\n  addr: \"{address}\"\n",
                data.display()
            );
            write(folder.join("config.yml"), config)?;
            let mut command = Command::new(&program);
            command.arg("serve").arg(folder.join("config.yml"));
            Ok(command)
        })
    }

    /// moto, which speaks S3 and takes any credentials. Its objects are in memory.
    pub fn s3() -> Result<Self> {
        let program = find("moto_server", &["/opt/ferrofs-moto/bin/moto_server"])?;
        Self::start(|address, _| {
            let mut command = Command::new(&program);
            command.args(["-H", &address.ip().to_string(), "-p", &address.port().to_string()]);
            Ok(command)
        })
    }

    fn start(prepare: impl Fn(SocketAddr, &Path) -> Result<Command>) -> Result<Self> {
        // Between our look for a free port and the server's bind somebody may take it.
        let mut last = Error::from(ErrorKind::AddrInUse);
        for _ in 0..3 {
            let folder = tempfile::tempdir()?;
            let address = free_port()?;
            let log = File::create(folder.path().join("log"))?;
            let process = prepare(address, folder.path())?
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0)
                .spawn()?;
            let mut component = Self { address, process, folder };
            match component.wait() {
                Ok(()) => return Ok(component),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                return Err(Error::other(format!("{status}: {}", self.log())));
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Error::new(ErrorKind::TimedOut, self.log()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of `path` (which begins with a slash) there.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        // It leads a process group of its own: what it started ends with it.
        if let Some(group) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

/// The component, or `None` after a line that says why a test is skipped; in CI, where
/// `scripts/setup.sh` has run, a missing one is a failure.
pub fn available<T>(started: Result<T>) -> Option<T> {
    match started {
        Ok(component) => Some(component),
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("a component does not start: {error}"),
    }
}

/// Sends one request with a body and returns status, headers and body of the answer: enough to
/// push to a registry or to S3. Gives status, headers and body.
#[expect(clippy::type_complexity, reason = "three parts of an answer, named above")]
pub fn send(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(u16, Vec<(String, String)>, Vec<u8>)> {
    use std::io::{BufReader, Read, Write};
    let mut stream = TcpStream::connect(address)?;
    let mut head =
        format!("{method} {target} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.extend(["Content-Length: ", &body.len().to_string(), "\r\n\r\n"]);
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut input = BufReader::new(stream);
    let Some((line, headers)) = super::request::read_head(&mut input)? else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, line))?;
    let mut body = Vec::new();
    input.read_to_end(&mut body)?;
    Ok((status, headers, body))
}

fn free_port() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn find(name: &str, places: &[&str]) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .chain(places.iter().map(PathBuf::from))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{name} is missing (scripts/setup.sh)"))
        })
}
