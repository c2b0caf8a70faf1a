//! Command lines of callers, read into plans.

use super::*;

fn read(line: &str) -> Result<Invocation, Refusal> {
    let argv: Vec<_> = line.split_whitespace().map(OsString::from).collect();
    Speaker::of(&argv).read(&argv, true)
}

fn plan(line: &str) -> MountPlan {
    match read(line) {
        Ok(Invocation::Mount(plan)) => *plan,
        other => panic!("{line}: {other:?}"),
    }
}

fn branches(plan: &MountPlan) -> String {
    plan.branches.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// A plan in short: branches, mount point, type.
fn short(plan: &MountPlan) -> String {
    format!("{} at {} as {}", branches(plan), plan.mountpoint.display(), plan.subtype)
}

#[test]
fn our_own_command_lines_become_plans() {
    for (line, want) in [
        ("unionfs mount A:B C", "A=rw B=ro+wh at C as unionfs"),
        ("unionfs mount -o dirs=A=rw:B=ro C", "A=rw B=ro at C as unionfs"),
        ("unionfs mount -o lowerdir=/a C", "/a=ro+wh at C as unionfs"),
    ] {
        assert_eq!(short(&plan(line)), want, "{line}");
    }
}

#[test]
fn command_lines_of_fuse_overlayfs_become_plans() {
    let podman =
        "fuse-overlayfs -o lowerdir=/s/l/AB:/s/l/CD,upperdir=i/diff,workdir=i/work,,volatile /s/i/merged";
    for (line, want) in [
        (podman, "i/diff=rw /s/l/AB=ro+wh /s/l/CD=ro+wh at /s/i/merged as fuse-overlayfs"),
        ("fuse-overlayfs -o lowerdir=/a:/b/empty /m", "/a=ro+wh /b/empty=ro+wh at /m as fuse-overlayfs"),
        // containerd's, through mount.fuse3.
        (
            "fuse-overlayfs overlay /t -o workdir=/w,upperdir=/u,lowerdir=/l,dev,suid",
            "/u=rw /l=ro+wh at /t as fuse-overlayfs",
        ),
        // buildah's.
        (
            r"fuse-overlayfs -o lowerdir=/c\:d,upperdir=/u,workdir=/w,private /m",
            "/u=rw /c:d=ro+wh at /m as fuse-overlayfs",
        ),
        ("unionfs -o lowerdir=/l,upperdir=/u,workdir=/w /m", "/u=rw /l=ro+wh at /m as unionfs"),
        // A path that looks like a permission is a path here.
        ("unionfs -o lowerdir=/a=rw /m", "/a=rw=ro+wh at /m as unionfs"),
        ("unionfs -o lowerdir+=/a,lowerdir+=/b /m", "/a=ro+wh /b=ro+wh at /m as unionfs"),
    ] {
        assert_eq!(short(&plan(line)), want, "{line}");
    }
}

#[test]
fn command_lines_of_unionfs_fuse_aufs_and_mount_become_plans() {
    for (line, want) in [
        ("unionfs -o cow,max_files=3 A=RW:B=RO C", "A=rw B=ro at C as unionfs"),
        ("unionfs /a:/b C", "/a=ro+wh /b=ro+wh at C as unionfs"),
        ("unionfs -o chroot=/host /a=RW:/b=RO /m", "/host/a=rw /host/b=ro at /m as unionfs"),
        ("mount.unionfs none /m -o rw,br:A=rw:B=ro", "A=rw B=ro at /m as unionfs"),
        ("mount.unionfs A:B /m -o rw", "A=rw B=ro+wh at /m as unionfs"),
        ("mount.fuse.unionfs N /m -o rw,_netdev,lowerdir=/a", "/a=ro+wh at /m as unionfs"),
    ] {
        assert_eq!(short(&plan(line)), want, "{line}");
    }
}

#[test]
fn mount_source_is_the_callers_name_or_the_programs() {
    for (line, want) in [
        ("fuse-overlayfs overlay /t -o lowerdir=/l", Some("fuse-overlayfs")),
        ("mount.unionfs none /m -o dirs=A:B", Some("none")),
        ("unionfs NAME /m -o lowerdir=/a,dev,suid", Some("NAME")),
        ("unionfs A=RW:B=RO /m", None),
        ("unionfs mount -o fsname=x A:B C", Some("x")),
    ] {
        assert_eq!(plan(line).source.as_deref(), want, "{line}");
    }
}

#[test]
fn letters_mean_what_they_mean_to_each_caller() {
    let server = plan("fuse-overlayfs -d -s -o lowerdir=/a /m");
    assert!(server.foreground && server.debug && !server.fake);
    assert_eq!(server.choice.threads, Some(1));
    let helper = plan("mount.unionfs none /m -sfnv -o dirs=A:B,frobnicate");
    assert!(helper.fake && !helper.foreground);
    assert_eq!(helper.ignored, ["frobnicate"]);
}

#[test]
fn unknown_options_are_ignored_for_fuse_overlayfs_and_refused_elsewhere() {
    let lenient = plan("fuse-overlayfs -x -o lowerdir=/a,private,frob=1 /m");
    assert_eq!(lenient.ignored, ["private", "frob=1", "-x"]);
    for line in ["unionfs -o frob A=RW:B /m", "mount.unionfs none /m -o dirs=A,frob", "unionfs -x A=RW:B /m"]
    {
        let refusal = read(line).expect_err(line);
        assert!(matches!(refusal, Refusal::Option(_) | Refusal::UnknownOption(_)), "{line}: {refusal}");
    }
}

#[test]
fn defaults_of_mount_flags_are_the_callers() {
    use unionfs::mount::MountFlags as Flag;
    for (line, root, want) in [
        ("fuse-overlayfs -o lowerdir=/a /m", true, Flag::NODEV | Flag::NOATIME),
        ("fuse-overlayfs -o lowerdir=/a /m", false, Flag::NODEV | Flag::NOATIME | Flag::NOSUID),
        ("fuse-overlayfs -o lowerdir=/a,dev,suid /m", false, Flag::NOATIME),
        ("unionfs mount A:B /m", false, Flag::empty()),
    ] {
        let argv: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        let Ok(Invocation::Mount(plan)) = Speaker::of(&argv).read(&argv, root) else { panic!("{line}") };
        assert_eq!(plan.choice.flags, want, "{line}");
    }
}

#[test]
fn version_has_the_form_that_callers_look_for() {
    for line in ["fuse-overlayfs -V", "/usr/bin/fuse-overlayfs --version"] {
        let Ok(Invocation::Say(text)) = read(line) else { panic!("{line}") };
        let version = text.lines().next().and_then(|line| line.strip_prefix("fuse-overlayfs: version "));
        let number = version.and_then(|version| version.parse::<f32>().ok());
        assert!(number.is_some_and(|number| number >= 1.0), "{text}");
        assert!(text.contains(concat!("unionfs ", env!("CARGO_PKG_VERSION"))), "{text}");
    }
}

#[test]
fn command_lines_that_cannot_be_followed_say_why() {
    for (line, want) in [
        ("fuse-overlayfs -o lowerdir=/a", "no mount point"),
        ("fuse-overlayfs /m", "no branches"),
        ("fuse-overlayfs -o upperdir=/u,workdir=/w /m", "no lowerdir"),
        ("fuse-overlayfs -o lowerdir=/a,upperdir=/u /m", "needs workdir="),
        ("fuse-overlayfs -o lowerdir=/a,dirs=/b /m", "both name the branches"),
        ("fuse-overlayfs -o", "-o needs a value"),
        ("fuse-overlayfs -o lowerdir=/a::/b /m", "empty"),
        ("unionfs A=RX:B /m", "unknown permission"),
        ("unionfs A=RW:B /m more", "unexpected argument"),
        ("mount.unionfs none /m", "no branches"),
        ("mount.unionfs", "no mount point"),
    ] {
        let refusal = read(line).expect_err(line).to_string();
        assert!(refusal.contains(want), "{line}: {refusal}");
        assert_eq!(refusal.lines().count(), 1, "{line}: {refusal}");
    }
}
