//! The pipeline: one pump for every engine.
