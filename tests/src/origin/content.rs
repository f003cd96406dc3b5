// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an origin serves.

use super::answer::Answer;
use super::request::{Request, find, read_head};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// What an origin serves.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes by path (which begins with a slash).
    Bytes(BTreeMap<String, Arc<[u8]>>),
    /// The regular files below a folder.
    Folder(PathBuf),
    /// What another server answers; `Host` and all other headers are passed on as they came.
    Upstream(SocketAddr),
}

impl Content {
    /// One resource.
    pub fn bytes(path: &str, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Bytes(BTreeMap::from([(path.to_owned(), bytes.into())]))
    }

    /// The right answer to `request`; `whole` leaves its range unheeded.
    pub(super) fn answer(&self, request: &Request, whole: bool) -> Result<Answer> {
        let range = request.range().filter(|_| !whole);
        match self {
            Self::Upstream(address) => pass_on(*address, request, whole),
            _ if !matches!(request.method.as_str(), "GET" | "HEAD") => Ok(Answer::empty(405)),
            Self::Bytes(all) => Ok(match all.get(request.path()) {
                None => Answer::empty(404),
                Some(bytes) => {
                    let tag = tag(bytes.len() as u64, bytes.as_ptr() as u64);
                    let bytes = Cursor::new(Arc::clone(bytes));
                    let len = bytes.get_ref().len() as u64;
                    Answer::resource(len, &tag, range, |first| {
                        let mut bytes = bytes;
                        bytes.set_position(first);
                        Ok(Box::new(bytes))
                    })?
                }
            }),
            Self::Folder(folder) => match open(folder, request.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Answer::empty(404)),
                Err(error) => Err(error),
                Ok((mut file, len, stamp)) => {
                    Answer::resource(len, &tag(len, stamp), range, move |first| {
                        file.seek(SeekFrom::Start(first))?;
                        Ok(Box::new(file))
                    })
                }
            },
        }
    }
}

fn tag(len: u64, stamp: u64) -> String {
    format!("\"{len:x}-{stamp:x}\"")
}

fn open(folder: &Path, path: &str) -> Result<(File, u64, u64)> {
    let path = Path::new(path.trim_start_matches('/'));
    if path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(ErrorKind::NotFound.into());
    }
    let file = File::open(folder.join(path))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    let time = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
    Ok((file, metadata.len(), time.map_or(0, |time| time.as_nanos() as u64)))
}

/// Asks in HTTP/1.0, so that the answer's body ends with its length or with the connection.
fn pass_on(address: SocketAddr, request: &Request, whole: bool) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    let mut head = format!("{} {} HTTP/1.0\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if name == "connection" || (name == "range" && whole) {
            continue;
        }
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("connection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut input = BufReader::new(stream);
    let Some((line, headers)) = read_head(&mut input)? else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, line))?;
    let bodiless = request.method == "HEAD" || matches!(status, 204 | 304);
    let len = find(&headers, "content-length").and_then(|len| len.parse::<u64>().ok());
    let first = find(&headers, "content-range")
        .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok())
        .unwrap_or(0);
    let (len, body): (u64, Box<dyn Read + Send>) = match len {
        Some(len) => (len, Box::new(input)),
        None if bodiless => (0, Box::new(std::io::empty())),
        None => {
            let mut all = Vec::new();
            input.read_to_end(&mut all)?;
            (all.len() as u64, Box::new(Cursor::new(all)))
        }
    };
    let drop = ["connection", "content-length", "transfer-encoding", "keep-alive"];
    let headers = headers.into_iter().filter(|(name, _)| !drop.contains(&name.as_str())).collect();
    Ok(Answer { status, headers, first, len, body })
}
