//! A connection to a beanstalkd node by hand: for the limit of the server, and to ask it what it holds.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// A blocking connection. Whoever writes much before reading has to know that the answers find room.
#[derive(Debug)]
pub(crate) struct Connection {
    from: BufReader<TcpStream>,
    line: Vec<u8>,
    to: TcpStream,
}

impl Connection {
    pub(crate) fn open(endpoint: &str) -> Result<Self, String> {
        let error = |error: std::io::Error| format!("{endpoint}: {error}");
        let to = TcpStream::connect(endpoint).map_err(error)?;
        to.set_nodelay(true).map_err(error)?;
        let from = BufReader::with_capacity(1 << 18, to.try_clone().map_err(error)?);
        Ok(Self {
            from,
            line: Vec::new(),
            to,
        })
    }

    /// Writes commands, each ended by `\r\n`.
    pub(crate) fn say(&mut self, commands: &[u8]) -> Result<(), String> {
        let said = self.to.write_all(commands);
        said.map_err(|error| format!("a node does not listen: {error}"))
    }

    /// The next line of answers, without its end.
    pub(crate) fn line(&mut self) -> Result<&[u8], String> {
        self.line.clear();
        let read = self.from.read_until(b'\n', &mut self.line);
        read.map_err(|error| format!("a node does not answer: {error}"))?;
        let line = self.line.strip_suffix(b"\r\n");
        line.ok_or_else(|| "a node closed the connection".to_owned())
    }

    /// Says something whose answer is one line that begins so.
    pub(crate) fn expect(&mut self, command: &str, answer: &str) -> Result<(), String> {
        self.say(command.as_bytes())?;
        self.expect_line(answer)
    }

    /// The next line has to begin so.
    pub(crate) fn expect_line(&mut self, answer: &str) -> Result<(), String> {
        let line = self.line()?;
        if line.starts_with(answer.as_bytes()) {
            return Ok(());
        }
        Err(format!("not {answer}: {}", String::from_utf8_lossy(line)))
    }

    /// The answer to a reserve: the id of a job, whose body is read and dropped; `None` if there is no job.
    pub(crate) fn reserved(&mut self) -> Result<Option<u64>, String> {
        let line = self.line()?;
        if line == b"TIMED_OUT" {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(line).into_owned();
        let numbers = text.strip_prefix("RESERVED ").and_then(|rest| {
            let (id, bytes) = rest.split_once(' ')?;
            Some((id.parse().ok()?, bytes.parse::<usize>().ok()?))
        });
        let (id, bytes) = numbers.ok_or_else(|| format!("not RESERVED: {text}"))?;
        self.skip(bytes + 2)?;
        Ok(Some(id))
    }

    fn skip(&mut self, mut bytes: usize) -> Result<(), String> {
        while bytes > 0 {
            let here = self.from.fill_buf();
            let here = here.map_err(|error| format!("a node does not answer: {error}"))?;
            if here.is_empty() {
                return Err("a node closed the connection".to_owned());
            }
            let some = here.len().min(bytes);
            self.from.consume(some);
            bytes -= some;
        }
        Ok(())
    }

    /// How many jobs of the tube there are that are not buried.
    pub(crate) fn jobs(&mut self, tube: &str) -> Result<u64, String> {
        self.say(format!("stats-tube {tube}\r\n").as_bytes())?;
        let line = String::from_utf8_lossy(self.line()?).into_owned();
        if line == "NOT_FOUND" {
            return Ok(0);
        }
        let bytes = line.strip_prefix("OK ").and_then(|text| text.parse().ok());
        let bytes: usize = bytes.ok_or_else(|| format!("not OK: {line}"))?;
        let mut text = vec![0; bytes + 2];
        let read = self.from.read_exact(&mut text);
        read.map_err(|error| format!("a node does not answer: {error}"))?;
        let text = String::from_utf8_lossy(&text);
        let counts = text.lines().filter_map(|line| {
            let count = line.strip_prefix("current-jobs-")?;
            let (state, count) = count.split_once(": ")?;
            matches!(state, "ready" | "reserved" | "delayed")
                .then(|| count.parse::<u64>().ok())
                .flatten()
        });
        Ok(counts.sum())
    }
}

#[cfg(test)]
mod tests {
    use go_queue_tests::Folder;
    use go_queue_tests::servers::{Beanstalkd, installed};

    use super::*;

    #[test]
    fn jobs_are_counted_until_they_are_deleted() {
        if !installed(&[Beanstalkd::PROGRAM]) {
            return;
        }
        let folder = Folder::new("bench-connection");
        let node = Beanstalkd::start(folder.path(), "node");
        let mut connection = Connection::open(&node.endpoint()).unwrap();
        assert_eq!(connection.jobs("t"), Ok(0));
        connection.expect("use t\r\n", "USING").unwrap();
        connection.expect("watch t\r\n", "WATCHING").unwrap();
        for delay in [0, 3600] {
            let put = format!("put 1 {delay} 60 3\r\nabc\r\n");
            connection.expect(&put, "INSERTED").unwrap();
        }
        assert_eq!(connection.jobs("t"), Ok(2));
        connection.say(b"reserve-with-timeout 0\r\n").unwrap();
        assert_eq!(connection.reserved(), Ok(Some(1)));
        connection.say(b"reserve-with-timeout 0\r\n").unwrap();
        assert_eq!(connection.reserved(), Ok(None));
        assert_eq!(connection.jobs("t"), Ok(2));
        connection.expect("delete 1\r\n", "DELETED").unwrap();
        assert_eq!(connection.jobs("t"), Ok(1));
        assert!(connection.expect("delete 1\r\n", "DELETED").is_err());
    }
}
