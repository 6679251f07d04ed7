//! Writes down what happened to pools, for `howdah events`.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::Supervisor;
use crate::journal::{self, Level, Origin};
use crate::pool::events::{self, Entry, Kind};
use crate::pool::limits::Bucket;
use crate::pool::machine::After;
use crate::sys;

impl Supervisor {
    /// Writes an event of a pool down, if the pool has not caused too many.
    pub(super) fn note(&mut self, index: usize, kind: Kind, fields: Value) {
        let Some(slot) = &mut self.slots[index] else { return };
        let now = Instant::now();
        let Some(dropped) = slot.vigil.bucket.get_or_insert_with(|| Bucket::new(now)).take(now) else {
            return;
        };
        let generation = (slot.record.generation > 0).then_some(slot.record.generation);
        let pool = Some(slot.pool.name.to_string());
        let mut fields = into_map(fields);
        if dropped > 0 {
            fields.insert("dropped_before".to_owned(), Value::from(dropped));
        }
        self.write_event(Entry { time: events::now(), pool, generation, kind, fields });
    }

    /// Writes an event of all of howdah down.
    pub(super) fn note_all(&mut self, kind: Kind, fields: Value) {
        let fields = into_map(fields);
        self.write_event(Entry { time: events::now(), pool: None, generation: None, kind, fields });
    }

    /// A generation was ended because nobody was in it.
    pub(super) fn note_stop(&mut self, index: usize, then: After) {
        let reason = match then {
            After::Cold => "idle",
            After::Ended => "drained",
            // Its failure has been told.
            After::Backoff => return,
        };
        self.note(index, Kind::Stop, json!({ "reason": reason }));
    }

    fn write_event(&mut self, entry: Entry) {
        if let Err(error) = self.chronicle.write(entry) {
            let file = events::file(&self.settings.places.runtime);
            let text = format!("{}: {}", file.display(), sys::told(&error));
            journal::line(Level::Debug, Origin::default(), &text);
        }
    }
}

fn into_map(fields: Value) -> Map<String, Value> {
    match fields {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
