//! Changes to a configuration, written as lines of a Dockerfile (docker-import(1), `--change`).

use std::collections::BTreeMap;

use super::config::{Empty, ImageConfig};
use super::error::{Error, Result};

/// Makes the change that a line such as `CMD ["/bin/sh"]` asks for.
pub(super) fn apply(config: &mut ImageConfig, line: &str) -> Result<()> {
    let bad = |rule: String| Error::BadChange { given: line.to_owned(), rule };
    let text = line.trim();
    let (instruction, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(bad("an instruction and its value are wanted, as in `CMD [\"/bin/sh\"]`".into()));
    }
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = command(rest).map_err(bad)?,
        "ENTRYPOINT" => config.entrypoint = command(rest).map_err(bad)?,
        "ENV" => {
            pairs(rest).map_err(bad)?.into_iter().for_each(|(name, value)| set_env(config, &name, &value))
        }
        "LABEL" => config.labels.extend(pairs(rest).map_err(bad)?),
        "WORKDIR" => config.working_dir = under(&config.working_dir, rest),
        "USER" => config.user = rest.to_owned(),
        "STOPSIGNAL" => config.stop_signal = rest.to_owned(),
        "EXPOSE" => expose(&mut config.exposed_ports, rest).map_err(bad)?,
        "VOLUME" => config.volumes.extend(paths(rest).map_err(bad)?.into_iter().map(|path| (path, Empty {}))),
        other => {
            return Err(bad(format!(
                "{other:?} is not one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"
            )));
        }
    }
    Ok(())
}

/// A command: a JSON list is taken as it is, any other text is for the shell.
fn command(text: &str) -> Result<Vec<String>, String> {
    match list(text)? {
        Some(list) => Ok(list),
        None => Ok(vec!["/bin/sh".into(), "-c".into(), text.into()]),
    }
}

/// A JSON list of strings, if the text is meant to be one.
fn list(text: &str) -> Result<Option<Vec<String>>, String> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|error| format!("no JSON list of strings: {error}"))
}

fn paths(text: &str) -> Result<Vec<String>, String> {
    let paths = match list(text)? {
        Some(list) => list,
        None => words(text)?,
    };
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(format!("the volume {path:?} is no absolute path")),
        None => Ok(paths),
    }
}

/// `NAME=VALUE NAME="VALUE WITH SPACES"`, or the old form `NAME VALUE`, all to the end being the value.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    if let Some((name, value)) = text.split_once(char::is_whitespace)
        && !name.contains('=')
    {
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is no NAME=VALUE")),
    };
    words(text)?.into_iter().map(pair).collect()
}

/// Words parted by spaces, but not inside quotes or after a backslash.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(letters.next()),
            (mark, Some(open)) if mark == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote is not closed".into()) } else { Ok(words) }
}

fn set_env(config: &mut ImageConfig, name: &str, value: &str) {
    let variable = format!("{name}={value}");
    let same = |known: &&mut String| known.split_once('=').map_or(known.as_str(), |(name, _)| name) == name;
    match config.env.iter_mut().find(same) {
        Some(known) => *known = variable,
        None => config.env.push(variable),
    }
}

/// A relative directory goes on from the one before.
fn under(before: &str, next: &str) -> String {
    if next.starts_with('/') { next.to_owned() } else { format!("{}/{next}", before.trim_end_matches('/')) }
}

fn expose(ports: &mut BTreeMap<String, Empty>, text: &str) -> Result<(), String> {
    for word in text.split_whitespace() {
        let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port != 0);
        let (Some(first), Some(last)) = (port(first), port(last)) else {
            return Err(format!("{word:?} is no PORT[-PORT][/PROTOCOL]"));
        };
        if first > last || !matches!(protocol, "tcp" | "udp" | "sctp") {
            return Err(format!("{word:?} is no PORT[-PORT][/tcp|udp|sctp]"));
        }
        ports.extend((first..=last).map(|port| (format!("{port}/{protocol}"), Empty {})));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn changed(lines: &[&str]) -> Result<Value> {
        let mut config = ImageConfig::default();
        lines.iter().try_for_each(|line| apply(&mut config, line))?;
        Ok(serde_json::to_value(config).unwrap())
    }

    #[test]
    fn apply_by_line() {
        for (lines, want) in [
            (&[r#"CMD ["/bin/sh", "-l"]"#][..], json!({"Cmd": ["/bin/sh", "-l"]})),
            (&["cmd echo hi"], json!({"Cmd": ["/bin/sh", "-c", "echo hi"]})),
            (&[r#"ENTRYPOINT ["/init"]"#], json!({"Entrypoint": ["/init"]})),
            (&["ENV A=1 B='x y' C=a\\ b D=\"q\\\"\""], json!({"Env": ["A=1", "B=x y", "C=a b", "D=q\""]})),
            (&["ENV A one two"], json!({"Env": ["A=one two"]})),
            (&["ENV A=1", "ENV A=2"], json!({"Env": ["A=2"]})),
            (&["ENV A="], json!({"Env": ["A="]})),
            (&["WORKDIR /a", "WORKDIR b"], json!({"WorkingDir": "/a/b"})),
            (&["USER 1000:1000"], json!({"User": "1000:1000"})),
            (
                &["EXPOSE 80 53/udp 90-91"],
                json!({"ExposedPorts": {"53/udp": {}, "80/tcp": {}, "90/tcp": {}, "91/tcp": {}}}),
            ),
            (&["LABEL a=b c=\"d e\""], json!({"Labels": {"a": "b", "c": "d e"}})),
            (&["VOLUME /a /b", "VOLUME [\"/c d\"]"], json!({"Volumes": {"/a": {}, "/b": {}, "/c d": {}}})),
            (&["STOPSIGNAL SIGQUIT"], json!({"StopSignal": "SIGQUIT"})),
        ] {
            assert_eq!(changed(lines).unwrap(), want, "{lines:?}");
        }
    }

    #[test]
    fn apply_refuses() {
        for (line, rule) in [
            ("RUN make", "RUN"),
            ("CMD", "wanted"),
            ("", "wanted"),
            ("CMD [1]", "JSON"),
            ("CMD [\"a\"", "JSON"),
            ("ENV A=\"b", "not closed"),
            ("ENV =b c=d", "NAME=VALUE"),
            ("EXPOSE http", "PORT"),
            ("EXPOSE 0", "PORT"),
            ("EXPOSE 9-8", "PORT"),
            ("EXPOSE 80/icmp", "sctp"),
            ("VOLUME data", "absolute"),
            ("LABEL x", "NAME=VALUE"),
        ] {
            let text = changed(&[line]).unwrap_err().to_string();
            assert!(text.contains(rule) && text.contains(&format!("{line:?}")), "{text}");
        }
    }
}
