//! Through the dead letters of a tube without an index: a node shows the oldest buried job only, so each is taken and buried
//! again, behind the others, until all have had their turn. The order stays as it was.

use std::collections::HashMap;

use super::super::codec::{Answer, stat};
use super::super::node::{Ask, Node};
use super::record::Record;
use super::{Copy, Found, Shared, dead_tube};
use crate::engine::{DEFAULT_PRIORITY, EngineError};
use crate::message::Id;
use crate::name::Name;
use crate::time::WallTime;

/// Names a letter by what it says of itself, so that every walk gives it the same number: the time of its death in
/// milliseconds, and bits of its id.
fn cursor(died: WallTime, id: Id) -> u64 {
    let millis = u64::try_from(died.as_millis()).unwrap_or(0);
    let bits = u64::try_from(id.0 & 0x3f_ffff).unwrap_or(0);
    (millis << 22) | bits
}

impl Shared {
    /// The letters of one tube, or of all that are known; in the order of their cursors, copies of one task together. And
    /// whether every node was looked through.
    pub(super) async fn walk_all(
        &self,
        tube: Option<Name>,
    ) -> Result<(Vec<Found>, bool), EngineError> {
        let tubes = match tube {
            Some(tube) => {
                self.see(&tube);
                vec![tube]
            }
            None => self.seen(),
        };
        let _alone = self.walk.lock().await;
        let mut whole = true;
        let mut found: HashMap<(String, Id), Found> = HashMap::new();
        for tube in &tubes {
            // A name that has no tube for letters was never served.
            let Ok(dead) = dead_tube(tube) else { continue };
            for node in self.nodes.iter() {
                let jobs = match walk(node, &dead).await {
                    Ok(jobs) => jobs,
                    Err(error) if self.nodes.len() == 1 => return Err(error),
                    Err(error) => {
                        whole = false;
                        tracing::warn!(%error, "dead letters of a node cannot be listed; others may have copies");
                        continue;
                    }
                };
                for (job, body) in jobs {
                    let record = Record::read(tube, self.go_queue(tube), body);
                    let copy = Copy {
                        node: node.index(),
                        job,
                    };
                    let key = (tube.as_str().to_owned(), record.id);
                    found
                        .entry(key)
                        .or_insert_with(|| Found {
                            cursor: cursor(record.died, record.id),
                            record,
                            copies: Vec::new(),
                        })
                        .copies
                        .push(copy);
                }
            }
        }
        let mut found: Vec<Found> = found.into_values().collect();
        found.sort_by_key(|found| found.cursor);
        Ok((found, whole))
    }
}

/// All jobs of a tube of dead letters.
async fn walk(node: &Node, tube: &Name) -> Result<Vec<(u64, bytes::Bytes)>, EngineError> {
    let what = || format!("look through `{tube}`");
    let failed = |error: super::super::node::AskError| error.engine(what());
    let stats = node
        .ask(Ask::StatsTube(tube.clone()))
        .await
        .map_err(failed)?;
    let Answer::Stats(stats) = stats else {
        // A tube without jobs is none.
        return Ok(Vec::new());
    };
    let number = |field| -> u64 {
        stat(&stats, field)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    // Those that a crash left between put and bury.
    let astray = number("current-jobs-ready");
    let mut jobs = Vec::new();
    let mut buried = number("current-jobs-buried");
    for _ in 0..astray {
        match node
            .ask(Ask::PeekReady(tube.clone()))
            .await
            .map_err(failed)?
        {
            Answer::Found { id, .. } => {
                bury_again(node, id).await?;
                buried += 1;
            }
            _ => break,
        }
    }
    for _ in 0..buried {
        match node
            .ask(Ask::PeekBuried(tube.clone()))
            .await
            .map_err(failed)?
        {
            Answer::Found { id, body } => {
                bury_again(node, id).await?;
                jobs.push((id, body));
            }
            _ => break,
        }
    }
    // What was buried while we walked comes twice at most.
    jobs.sort_by_key(|(id, _)| *id);
    jobs.dedup_by_key(|(id, _)| *id);
    Ok(jobs)
}

async fn bury_again(node: &Node, id: u64) -> Result<(), EngineError> {
    let bury = Ask::Bury {
        id,
        priority: DEFAULT_PRIORITY,
    };
    for answer in node.ask_all(vec![Ask::ReserveJob(id), bury]).await {
        answer.map_err(|error| error.engine("bury a dead letter again"))?;
    }
    Ok(())
}
