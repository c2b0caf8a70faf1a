//! A small part of Go's text/template: what `--format` is used for.
//!
//! `{{.A.B}}` walks fields, `{{.}}` is all; `{{json .A}}`, `{{index .A 0 "key"}}`, `{{len .A}}`, `{{join .A ", "}}`,
//! `{{upper .A}}`, `{{lower .A}}`, `{{println .A}}`; a pipe gives its value as the last argument (`{{.A | json}}`); `{{-`
//! and `-}}` take away the space before and after. `\t` and `\n` outside of actions are a tab and a newline, as with
//! Docker. Values print as Go prints them: `[a b]`, `map[k:v]`, `<no value>`.

use serde_json::Value;

/// A template that cannot be carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// An action has no end.
    #[error("template: `{{{{` without `}}}}` after {0:?}")]
    Unclosed(String),
    /// An action that cannot be read.
    #[error("template: cannot read `{0}`: {1}")]
    Syntax(String, &'static str),
    /// A function that is not known.
    #[error("template: no function {0:?}; there are json, index, len, join, upper, lower and println")]
    Function(String),
    /// A field that is not there.
    #[error("template: no field {field:?} in `{path}`; it has {}", known.join(", "))]
    Field {
        /// The field.
        field: String,
        /// How it was reached.
        path: String,
        /// The fields that are there.
        known: Vec<String>,
    },
    /// A function that was given what it cannot work on.
    #[error("template: {0} cannot work on {1}")]
    Argument(&'static str, String),
}

type Result<T> = std::result::Result<T, TemplateError>;

/// Carries out a template on a value.
///
/// # Errors
///
/// [`TemplateError`], for the template or for what it asks of the value.
pub fn render(template: &str, value: &Value) -> Result<String> {
    let (mut out, mut rest) = (String::new(), template);
    while let Some(open) = rest.find("{{") {
        let (text, action) = (&rest[..open], &rest[open + 2..]);
        let close = action.find("}}").ok_or_else(|| TemplateError::Unclosed(text.to_owned()))?;
        let (mut inner, after) = (&action[..close], &action[close + 2..]);
        let text = match inner.strip_prefix("- ") {
            Some(trimmed) => {
                inner = trimmed;
                text.trim_end()
            }
            None => text,
        };
        out.push_str(&unescape(text));
        rest = match inner.strip_suffix(" -") {
            Some(trimmed) => {
                inner = trimmed;
                after.trim_start()
            }
            None => after,
        };
        out.push_str(&show(&evaluate(inner, value)?));
    }
    out.push_str(&unescape(rest));
    Ok(out)
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    Path(String),
    Literal(Value),
    Name(String),
    Pipe,
}

fn words(action: &str) -> Result<Vec<Word>> {
    let bad = |rule| TemplateError::Syntax(action.to_owned(), rule);
    let (mut words, mut rest) = (Vec::new(), action.trim_start());
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => string_end(rest).ok_or_else(|| bad("a quote is not closed"))?,
            '|' => 1,
            _ => rest.find(|letter: char| letter.is_whitespace() || letter == '|').unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        words.push(match first {
            '"' => Word::Literal(serde_json::from_str(word).map_err(|_| bad("a string is malformed"))?),
            '|' => Word::Pipe,
            '.' => Word::Path(word.to_owned()),
            '0'..='9' => Word::Literal(word.parse::<u64>().map_err(|_| bad("a number is malformed"))?.into()),
            letter if letter.is_ascii_alphabetic() => Word::Name(word.to_owned()),
            _ => return Err(bad("a field, function, string or number is wanted")),
        });
        rest = after.trim_start();
    }
    Ok(words)
}

/// Where the string at the start ends, quotes included.
fn string_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            '"' if !escaped => return Some(at + 1),
            _ => escaped = letter == '\\' && !escaped,
        }
    }
    None
}

fn evaluate(action: &str, root: &Value) -> Result<Value> {
    let mut piped = None;
    for command in words(action)?.split(|word| *word == Word::Pipe) {
        let mut arguments = Vec::new();
        let function = match command.first() {
            Some(Word::Name(name)) => Some(name.as_str()),
            _ => None,
        };
        for word in &command[usize::from(function.is_some())..] {
            arguments.push(match word {
                Word::Path(path) => field(path, root)?,
                Word::Literal(value) => value.clone(),
                _ => return Err(TemplateError::Syntax(action.to_owned(), "functions do not nest; use `|`")),
            });
        }
        arguments.extend(piped.take());
        piped = Some(match (function, &arguments[..]) {
            (Some(function), _) => call(function, &arguments)?,
            (None, [value]) => value.clone(),
            (None, _) => return Err(TemplateError::Syntax(action.to_owned(), "exactly one value is wanted")),
        });
    }
    piped.ok_or_else(|| TemplateError::Syntax(action.to_owned(), "it is empty"))
}

fn field(path: &str, root: &Value) -> Result<Value> {
    let mut value = root;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        value = value.get(name).ok_or_else(|| TemplateError::Field {
            field: name.to_owned(),
            path: path.to_owned(),
            known: value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default(),
        })?;
    }
    Ok(value.clone())
}

fn call(function: &str, arguments: &[Value]) -> Result<Value> {
    match (function, arguments) {
        ("json", [value]) => Ok(value.to_string().into()),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("len", [Value::Array(list)]) => Ok(list.len().into()),
        ("len", [Value::Object(map)]) => Ok(map.len().into()),
        ("len", [Value::String(text)]) => Ok(text.len().into()),
        ("len", [Value::Null]) => Ok(0.into()),
        ("join", [Value::Array(list), Value::String(between)]) => {
            Ok(list.iter().map(show).collect::<Vec<_>>().join(between).into())
        }
        ("join", [Value::Null, Value::String(_)]) => Ok("".into()),
        ("upper", [Value::String(text)]) => Ok(text.to_uppercase().into()),
        ("lower", [Value::String(text)]) => Ok(text.to_lowercase().into()),
        ("println", values) => {
            let shown: Vec<_> = values.iter().map(show).collect();
            Ok(format!("{}\n", shown.join(" ")).into())
        }
        ("json", _) => Err(unfit("json", arguments)),
        ("index", _) => Err(unfit("index", arguments)),
        ("len", _) => Err(unfit("len", arguments)),
        ("join", _) => Err(unfit("join", arguments)),
        ("upper", _) => Err(unfit("upper", arguments)),
        ("lower", _) => Err(unfit("lower", arguments)),
        _ => Err(TemplateError::Function(function.to_owned())),
    }
}

fn unfit(function: &'static str, arguments: &[Value]) -> TemplateError {
    TemplateError::Argument(function, arguments.iter().map(Value::to_string).collect::<Vec<_>>().join(" "))
}

fn index(value: &Value, keys: &[Value]) -> Result<Value> {
    let mut value = value;
    for key in keys {
        let found = match (value, key) {
            (Value::Array(list), Value::Number(at)) => {
                at.as_u64().and_then(|at| usize::try_from(at).ok()).and_then(|at| list.get(at))
            }
            // As in Go, a map answers an absent key with nothing.
            (Value::Object(map), Value::String(key)) => Some(map.get(key).unwrap_or(&Value::Null)),
            _ => None,
        };
        value = found.ok_or_else(|| unfit("index", &[value.clone(), key.clone()]))?;
    }
    Ok(value.clone())
}

/// A value as Go's `%v` prints it.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{}", show(value))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        json!({
            "Id": "abc", "State": {"Pid": 42, "Running": true, "Error": null}, "Names": ["x", "y"],
            "Labels": {"b": "2", "a.c": "1"}, "Mounts": [{"Source": "/s"}],
        })
    }

    #[test]
    fn render_by_template() {
        for (template, want) in [
            ("plain", "plain"),
            ("{{.Id}}", "abc"),
            ("{{ .State.Pid }} {{.State.Running}}", "42 true"),
            ("{{.Names}} {{.Labels}} {{.State.Error}}", "[x y] map[a.c:1 b:2] <no value>"),
            ("{{json .Names}}", r#"["x","y"]"#),
            ("{{json .}}", &sample().to_string()),
            ("{{.State.Pid | json}}", "42"),
            ("{{index .Names 1}}", "y"),
            ("{{index .Labels \"a.c\"}}{{index .Labels \"none\"}}", "1<no value>"),
            ("{{index .Mounts 0 \"Source\"}}", "/s"),
            ("{{len .Names}}", "2"),
            ("{{join .Names \", \"}}", "x, y"),
            ("{{upper .Id}}{{.Id | upper | lower}}", "ABCabc"),
            ("a \\t{{.Id}}\\n", "a \tabc\n"),
            ("a {{- .Id -}} b", "aabcb"),
            ("{{println .Id 1}}", "abc 1\n"),
            ("{{\"a}\"}}", "a}"),
        ] {
            // Only the last has a brace in a string, which is read as Go reads it.
            assert_eq!(render(template, &sample()).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn render_refuses() {
        for (template, want) in [
            ("{{.Id", "without"),
            ("{{}}", "exactly one"),
            ("{{.Nope}}", "no field \"Nope\""),
            ("{{.State.Pod}}", "it has Error, Pid, Running"),
            ("{{frob .Id}}", "no function \"frob\""),
            ("{{index .Names 2}}", "index cannot work on"),
            ("{{len .State.Pid}}", "len cannot work on 42"),
            ("{{\"a}}", "not closed"),
            ("{{.Id .Id}}", "exactly one"),
            ("{{json (.Id)}}", "wanted"),
        ] {
            let text = render(template, &sample()).unwrap_err().to_string();
            assert!(text.contains(want), "{template}: {text}");
        }
    }
}
