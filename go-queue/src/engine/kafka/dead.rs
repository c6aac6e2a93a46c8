//! Dead letters: records of the topic `<topic>-dlt`.
