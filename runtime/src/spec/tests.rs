use super::*;
use crate::cgroup::Swap;

fn host() -> Host {
    Host { cpus: 2, env: BTreeMap::from([("CALLER".to_owned(), "1".to_owned())]) }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn request(command: &[&str]) -> Request {
    Request { image: Some("image".into()), command: words(command), ..Request::default() }
}

fn spec(request: &Request, image: &ImageDefaults) -> Result<Spec> {
    Spec::new(request, image, "0123456789abcdef", &host())
}

#[test]
fn args_by_entrypoint_and_command() {
    let image =
        ImageDefaults { entrypoint: words(&["entry"]), cmd: words(&["cmd"]), ..ImageDefaults::default() };
    let bare = ImageDefaults::default();
    for (case, image, entrypoint, command, want) in [
        ("image alone", &image, None, &[][..], Some(&["entry", "cmd"][..])),
        ("words replace CMD", &image, None, &["a", "b"], Some(&["entry", "a", "b"])),
        ("an entrypoint drops CMD", &image, Some("mine"), &[], Some(&["mine"])),
        ("an empty entrypoint with words", &image, Some(""), &["a"], Some(&["a"])),
        ("an empty entrypoint alone", &image, Some(""), &[], None),
        ("nothing at all", &bare, None, &[], None),
        ("an empty command", &bare, None, &[""], None),
    ] {
        let request = Request { entrypoint: entrypoint.map(str::to_owned), ..request(command) };
        let got = spec(&request, image).ok().map(|spec| spec.process.args);
        assert_eq!(got, want.map(words), "{case}");
    }
}

#[test]
fn args_with_a_root_directory_begin_with_the_first_word() {
    let request =
        Request { rootfs: Some("/usr:O".into()), image: Some("sh".into()), ..request(&["-c", "x"]) };
    let spec = spec(&request, &ImageDefaults::default()).unwrap();
    assert_eq!(spec.process.args, ["sh", "-c", "x"]);
    assert_eq!(spec.base, Base::Layer("/usr".into()));
}

#[test]
fn env_later_ones_win_and_keep_their_place() {
    let image = ImageDefaults { env: words(&["PATH=/image", "A=image"]), ..ImageDefaults::default() };
    let request =
        Request { env: words(&["A=flag", "CALLER", "GONE", "B=x=y"]), tty: true, ..request(&["c"]) };
    let spec = spec(&request, &image).unwrap();
    let want = [
        "PATH=/image",
        "HOSTNAME=0123456789ab",
        "container=uctr",
        "TERM=xterm",
        "A=flag",
        "CALLER=1",
        "B=x=y",
    ];
    assert_eq!(spec.process.env, want);
}

#[test]
fn limits_by_options() {
    type Change = fn(&mut Request);
    let table: [(&str, Change, Option<Limits>); 8] = [
        ("none", |_| (), Some(Limits::default())),
        (
            "memory",
            |request| request.memory = Some("64m".into()),
            Some(Limits { memory: Some(64 << 20), ..Limits::default() }),
        ),
        ("memory 0 is none", |request| request.memory = Some("0".into()), Some(Limits::default())),
        (
            "no swap",
            |request| (request.memory, request.memory_swap) = (Some("1g".into()), Some("1g".into())),
            Some(Limits {
                memory: Some(1 << 30),
                memory_and_swap: Swap::Bytes(1 << 30),
                ..Limits::default()
            }),
        ),
        (
            "swap unlimited",
            |request| (request.memory, request.memory_swap) = (Some("1g".into()), Some("-1".into())),
            Some(Limits { memory: Some(1 << 30), memory_and_swap: Swap::Unlimited, ..Limits::default() }),
        ),
        (
            "a fifth of a processor",
            |request| request.cpus = Some("0.2".into()),
            Some(Limits { cpu_quota: Some(20_000), ..Limits::default() }),
        ),
        ("more than there are", |request| request.cpus = Some("2.1".into()), None),
        ("pids unlimited", |request| request.pids_limit = Some("-1".into()), Some(Limits::default())),
    ];
    for (case, change, want) in table {
        let mut request = request(&["c"]);
        change(&mut request);
        assert_eq!(spec(&request, &ImageDefaults::default()).ok().map(|spec| spec.limits), want, "{case}");
    }
}

#[test]
fn mounts_are_sorted_and_the_image_gives_way() {
    let image = ImageDefaults { volumes: words(&["/a/b", "/c"]), ..ImageDefaults::default() };
    let request = Request {
        volume: words(&["/tmp:/a/b", "name:/z/y/x", "/z"]),
        tmpfs: words(&["/t"]),
        ..request(&["c"])
    };
    let spec = spec(&request, &image).unwrap();
    let mounts: Vec<_> =
        spec.mounts.iter().map(|mount| (mount.target.to_str().unwrap(), &mount.source)).collect();
    let host = Source::Host("/tmp".into());
    let (name, memory) = (Source::Volume("name".into()), Source::Tmpfs(vec![]));
    assert_eq!(
        mounts,
        [
            ("/z", &Source::Anonymous),
            ("/t", &memory),
            ("/c", &Source::Anonymous),
            ("/a/b", &host),
            ("/z/y/x", &name),
        ]
    );
}

#[test]
fn signal_by_name_and_number() {
    for (text, want) in [
        ("9", Some(9)),
        ("KILL", Some(9)),
        ("sigterm", Some(15)),
        ("SIGUSR1", Some(10)),
        ("0", None),
        ("99", None),
        ("SIGNOTHING", None),
        ("", None),
    ] {
        assert_eq!(signal(text), want, "{text:?}");
    }
}

#[test]
fn spec_survives_its_file() {
    let request = Request { volume: words(&["/v"]), memory: Some("1g".into()), ..request(&["c"]) };
    let spec = spec(&request, &ImageDefaults::default()).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}
