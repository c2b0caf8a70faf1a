//! buildah over our program; what it builds is what it builds over kernel overlay.

use crate::engine::{Union, Who, script};

const BUILD: &str = r#"
mkdir ctx; echo data > ctx/file
cat > ctx/Containerfile <<'END'
FROM localhost/base
COPY file /opt/copied
RUN mkdir /made && echo one > /made/one && rm /etc/group && chown 5:6 /made/one && chmod 4755 /made/one
RUN rm -r /made && mkdir -m 2750 /made && echo two > /made/two && ln /made/two /made/link && ln -s two /made/sym
RUN mv /opt /moved && rm -r /var && mkfifo /made/pipe && chmod 700 /tmp
CMD ["/bin/cat", "/made/two"]
END
buildah bud -q --isolation chroot --layers --pull-never --timestamp 1 -t localhost/built ctx >/dev/null
"#;

#[test]
fn steps_of_a_containerfile_see_those_before_them() {
    for who in [Who::Root, Who::User] {
        let text = format!(
            "{BUILD}
            podman run --rm $R localhost/built
            podman run --rm $R localhost/built sh -c 'ls /made /moved; ls -d /opt /var /etc/group 2>/dev/null || echo gone'"
        );
        let want = "two\n/made:\nlink\npipe\nsym\ntwo\n\n/moved:\ncopied\nfile\ngone\n";
        assert_eq!(script(who, Union::Ours, &text), want, "{who:?}");
    }
}

#[test]
fn builds_have_the_layers_and_the_tree_of_kernel_overlay() {
    // What hides is written in two ways that mean the same: one mark for each name, or one for the directory. And the
    // engine's own /run is not the build's.
    let text = format!(
        r#"{BUILD}
        buildah push -q localhost/built oci:out:built
        manifest=out/blobs/sha256/$(sed 's/.*sha256:\([0-9a-f]*\).*/\1/' out/index.json)
        for layer in $(sed 's/.*"layers":\[//; s/\].*//' $manifest | grep -o 'sha256:[0-9a-f]*' | cut -d: -f2); do
            echo layer; tar -tvzf out/blobs/sha256/$layer --numeric-owner --full-time | grep -v 'bin/\| run/\|/\.wh\.' | sort
        done
        podman run --rm $R localhost/built sh -c 'find / -xdev -path /proc -prune -o -path /sys -prune -o -path /dev -prune \
            -o -path /run -prune -o -path /etc -prune -o -exec stat -c "%n %F %a %u:%g %h %s" {{}} + | grep -v "^/ directory" | sort
            cat /made/two /moved/file /moved/copied; ls -d /etc/group 2>/dev/null || echo gone'"#
    );
    let (ours, kernel) = (script(Who::Root, Union::Ours, &text), script(Who::Root, Union::Kernel, &text));
    let without_sizes_of_directories = |text: &str| {
        let line = |line: &str| match line.split_once(" directory ") {
            Some((name, rest)) => {
                format!("{name} directory {}", rest.split(' ').take(2).collect::<Vec<_>>().join(" "))
            }
            None => line.to_owned(),
        };
        text.lines().map(line).collect::<Vec<_>>().join("\n")
    };
    assert!(
        ours.contains("made/two") && ours.contains("-rwsr-xr-x 5/6") && ours.ends_with("gone\n"),
        "{ours}"
    );
    assert_eq!(without_sizes_of_directories(&ours), without_sizes_of_directories(&kernel));
}

#[test]
fn working_containers_are_changed_and_committed() {
    for who in [Who::Root, Who::User] {
        let text = r#"c=$(buildah from --pull-never localhost/base)
            buildah run --isolation chroot $c sh -c 'echo new > /opt/file; rm /etc/group'
            echo host > host; buildah copy -q $c host /opt/host >/dev/null
            buildah config --cmd 'cat /opt/file /opt/host' $c
            buildah commit -q $c localhost/two >/dev/null; buildah rm $c >/dev/null
            podman run --rm $R localhost/two"#;
        assert_eq!(script(who, Union::Ours, text), "new\nhost\n", "{who:?}");
    }
}
