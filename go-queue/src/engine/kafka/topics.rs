//! Topics at start: those that are missing are created, or said.
