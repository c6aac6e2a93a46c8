//! The test of the guide's first page, as it stands there.

use go_queue::prelude::*;

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
    subject: String,
}

#[dq_handler(tube = "mails", retry(max = 3, backoff = "1s..10s"))]
async fn deliver(mail: Mail) -> Result<(), String> {
    if mail.to == "nobody" {
        Err("there is no such mailbox".to_owned())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use go_queue::testing::TestApp;

    use super::*;

    #[tokio::test]
    async fn a_mail_to_nobody_is_set_aside() {
        let app = TestApp::new(App::new().handlers(handlers![deliver]))
            .start()
            .await
            .expect("it is set up right");
        let mail = Mail {
            to: "nobody".into(),
            subject: "welcome".into(),
        };
        deliver::now(mail)
            .send(app.producer())
            .await
            .expect("stored");
        app.advance(minutes(1)).await; // no real time passes
        app.of::<deliver>().assert_ran(4).assert_dead_lettered(1);
    }
}
