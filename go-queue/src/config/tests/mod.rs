//! Tests of the configuration as a whole.

mod faulty;
mod go;
mod go_zero;
mod reading;
mod reference;
mod schema;
mod secrets;
mod servers;
mod settings;
mod variables;

use super::Config;

/// Reads a text as `app.yaml`, with these variables. An error is the rendered report.
fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let env = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    Config::from_yaml(text, "app.yaml", &env).map_err(|errors| errors.to_string())
}

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[])
}

fn good(text: &str) -> Config {
    match load(text) {
        Ok(config) => config,
        Err(report) => unreachable!("a good configuration is refused: {report}"),
    }
}

fn remarks(config: &Config) -> Vec<String> {
    config.remarks.iter().map(ToString::to_string).collect()
}
