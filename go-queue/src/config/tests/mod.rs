//! Tests of the configuration as a whole.

mod faulty;

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
    load(text).expect("a good configuration")
}
