//! The README's table of metrics, and the metrics.

use std::collections::BTreeSet;

use stompgate::broker::Kind;
use stompgate::chain::RouteSettings;

use super::scraped;
use crate::support::{gateway_with, soon};

/// The names of all families that gateways of every kind have.
async fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for kind in [Kind::Memory, Kind::Amqp, Kind::Mqtt] {
        let gateway = gateway_with(|config| {
            config.broker.kind = kind;
            config.app.route = vec![RouteSettings { pattern: "/app/a".to_owned(), ..RouteSettings::default() }];
            config.metrics.destinations = vec!["/topic/a".to_owned()];
        });
        let text = scraped(&gateway).await;
        soon("the end", gateway.shut_down()).await;
        names.extend(text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())));
    }
    names
}

#[tokio::test]
async fn the_readme_names_every_metric_and_no_other() {
    let readme = include_str!("../../../README.md");
    let section = readme.split("### Metrics").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let told: BTreeSet<String> = rows
        .flat_map(|row| row.split('|').nth(1).expect("a first column").split('`').skip(1).step_by(2))
        .map(|name| name.split('{').next().expect("a name").to_owned())
        .collect();
    assert_eq!(told, names().await);
}
