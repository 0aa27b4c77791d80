//! The dashboard in a browser: reads the page, and simulates mouse and keyboard.

use leastconn_testkit::eventually;
use serde_json::{Value, json};

use crate::chromium::{Chromium, TIMEOUT};
use crate::support::Running;

pub(crate) struct Page {
    chromium: Chromium,
    session: String,
    origin: String,
}

impl Page {
    /// Opens the dashboard in a window of 1440 by 900 pixels, and waits until it shows
    /// data. Returns `None` if there is no browser.
    pub(crate) async fn open(lb: &Running) -> Option<Self> {
        let chromium = Chromium::start()?;
        let target = json!({ "url": "about:blank" });
        let target = chromium.send(None, "Target.createTarget", target).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = chromium.send(None, "Target.attachToTarget", attach).await;
        let page = Self {
            chromium,
            session: attached["sessionId"].as_str().unwrap().to_owned(),
            origin: format!("http://{}/", lb.admin()),
        };
        for domain in ["Page", "Runtime", "Log", "Network", "DOM", "Accessibility"] {
            page.send(&format!("{domain}.enable"), json!({})).await;
        }
        page.size(1440, 900).await;
        page.media("prefers-color-scheme", "light").await;
        page.send("Page.navigate", json!({ "url": page.origin }))
            .await;
        page.wait("document.body?.dataset.shown").await;
        Some(page)
    }

    pub(crate) async fn send(&self, method: &str, params: Value) -> Value {
        self.chromium
            .send(Some(&self.session), method, params)
            .await
    }

    /// Evaluates a JavaScript expression.
    ///
    /// # Panics
    /// If the expression throws.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.send("Runtime.evaluate", params).await;
        let threw = &answer["exceptionDetails"];
        assert!(threw.is_null(), "{expression}: {threw}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is truthy, and returns its value.
    ///
    /// # Panics
    /// After [`TIMEOUT`].
    pub(crate) async fn wait(&self, expression: &str) -> Value {
        let wait = eventually(TIMEOUT, || async {
            match self.eval(expression).await {
                Value::Null | Value::Bool(false) => Err(expression.to_owned()),
                Value::Number(n) if n.as_f64() == Some(0.0) => Err(expression.to_owned()),
                Value::String(s) if s.is_empty() => Err(expression.to_owned()),
                value => Ok(value),
            }
        });
        match wait.await {
            Ok(value) => value,
            Err(error) => panic!("{error}; the page: {}", self.text("body").await),
        }
    }

    /// Waits until the page has sent two more requests. After that, the page shows no data from
    /// before this call.
    pub(crate) async fn wait_rounds(&self) {
        for _ in 0..2 {
            let shown = self.eval("document.body.dataset.shown").await;
            self.wait(&format!("document.body.dataset.shown !== {shown}"))
                .await;
        }
    }

    /// The visible text of an element.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let text = self
            .eval(&format!(
                "document.querySelector({}).innerText",
                json!(selector)
            ))
            .await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks in the middle of an element with the mouse.
    pub(crate) async fn click(&self, selector: &str) {
        let middle = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{ block: 'center' }});
               const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let at = self.eval(&middle).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.send("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Replaces the text of an input element.
    pub(crate) async fn write(&self, selector: &str, text: &str) {
        self.click(selector).await;
        self.eval(&format!(
            "document.querySelector({}).select()",
            json!(selector)
        ))
        .await;
        self.send("Input.insertText", json!({ "text": text })).await;
    }

    pub(crate) async fn tab(&self) {
        self.press("Tab").await;
    }

    /// Presses a key that has no character, or `Enter`.
    pub(crate) async fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "PageUp" => (33, ""),
            "PageDown" => (34, ""),
            "End" => (35, ""),
            "Home" => (36, ""),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            other => panic!("{other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code });
            self.send("Input.dispatchKeyEvent", event).await;
        }
    }

    pub(crate) async fn size(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.send("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    pub(crate) async fn media(&self, name: &str, value: &str) {
        let features = json!({ "features": [{ "name": name, "value": value }] });
        self.send("Emulation.setEmulatedMedia", features).await;
    }

    pub(crate) async fn events(&self, method: &str) -> Vec<Value> {
        self.chromium.events(method)
    }

    /// All responses to `GET /api/v1/PATH` so far, in order, with any query string.
    pub(crate) async fn responses(&self, path: &str) -> Vec<Value> {
        let start = format!("{}api/v1/{path}", self.origin);
        let finished = self.events("Network.loadingFinished").await;
        let finished = |id: &Value| finished.iter().any(|event| event["requestId"] == *id);
        let mut responses = Vec::new();
        for event in self.events("Network.responseReceived").await {
            if !finished(&event["requestId"]) {
                continue;
            }
            let url = event["response"]["url"].as_str().unwrap();
            let query = url.strip_prefix(&start);
            if query.is_some_and(|query| query.is_empty() || query.starts_with('?')) {
                let request = json!({ "requestId": event["requestId"] });
                let body = self.send("Network.getResponseBody", request).await;
                responses.push(serde_json::from_str(body["body"].as_str().unwrap()).unwrap());
            }
        }
        responses
    }

    /// Errors, exceptions and policy violations that the browser reported.
    pub(crate) async fn errors(&self) -> Vec<String> {
        let thrown = self.events("Runtime.exceptionThrown").await;
        let console = self.events("Runtime.consoleAPICalled").await;
        let logged = self.events("Log.entryAdded").await;
        let logged = logged
            .into_iter()
            .filter(|event| matches!(event["entry"]["level"].as_str(), Some("error" | "warning")));
        let all = thrown.into_iter().chain(console).chain(logged);
        all.map(|event| event.to_string()).collect()
    }

    /// Checks that the browser reported no errors, and sent requests only to the balancer.
    pub(crate) async fn assert_no_errors(&self) {
        assert_eq!(self.errors().await, [""; 0]);
        self.assert_same_origin_requests().await;
    }

    /// Checks that there were no errors, closes the page and `held`, and waits until the balancer
    /// is idle.
    pub(crate) async fn finish<T>(self, lb: &Running, held: T) {
        self.assert_no_errors().await;
        drop((self, held));
        lb.quiet().await;
    }

    /// Sets a server, `UPSTREAM/NAME`, to drain through the API.
    pub(crate) async fn drain(&self, server: &str, token: &str) {
        let drain = format!(
            "fetch('/api/v1/servers/{server}/state', {{ method: 'POST', body: '{{\"state\":\"drain\"}}',
               headers: {{ authorization: 'Bearer {token}', 'content-type': 'application/json' }} }})
               .then((answer) => answer.status)"
        );
        assert_eq!(self.eval(&drain).await, 200);
    }

    pub(crate) async fn assert_same_origin_requests(&self) {
        let requests = self.events("Network.requestWillBeSent").await;
        assert!(!requests.is_empty());
        for event in requests {
            let url = event["request"]["url"].as_str().unwrap();
            assert!(url.starts_with(&self.origin), "{url}");
        }
    }
}
