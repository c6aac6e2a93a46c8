//! The dedup store on the file of the SQLite engine.
