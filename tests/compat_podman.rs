//! What podman does with a `mount_program`, as root and without.

use crate::engine::{Union, Who, script};

fn both(text: &str, want: &str) {
    for who in [Who::Root, Who::User] {
        assert_eq!(script(who, Union::Ours, text), want, "{who:?}");
    }
}

#[test]
fn containers_run_on_the_union_and_leave_nothing() {
    both(
        r#"podman run --rm $R localhost/base sh -c 'echo new > /opt/file; cat /opt/file; rm /etc/group; ls /opt; sed -n "s/ .*fuse.fuse-overlayfs.*/ mounted/p" /proc/mounts'
        podman run --rm $R localhost/base cat /opt/file"#,
        "new\nfile\nfuse-overlayfs mounted\nlower",
    );
}

#[test]
fn exec_diff_cp_and_commit_see_what_changed() {
    both(
        r#"podman run -d --name box $R localhost/base sleep 1000 >/dev/null 2>&1 </dev/null
        podman exec box sh -c 'echo new > /opt/file; touch /opt/added; rm -r /etc/group /tmp; mkdir -m 1777 /tmp; mkfifo /opt/pipe; chown 5:6 /opt/added'
        podman diff box | sort
        echo host > host; podman cp host box:/opt/host; podman cp box:/opt/file out; cat out
        podman commit -q box localhost/two >/dev/null
        podman run --rm $R localhost/two sh -c 'cat /opt/file /opt/host; stat -c "%n %F %u:%g %a" /opt/* /tmp; ls /etc/group 2>&1'||echo gone"#,
        "A /opt/added\nA /opt/pipe\nC /etc\nC /opt\nC /opt/file\nD /etc/group\nnew\nnew\nhost\n\
         /opt/added regular empty file 5:6 644\n/opt/file regular file 0:0 644\n/opt/host regular file 0:0 644\n\
         /opt/pipe fifo 0:0 644\n/tmp directory 0:0 1777\nls: /etc/group: No such file or directory\ngone\n",
    );
}

#[test]
fn a_stopped_container_starts_with_its_changes() {
    both(
        r#"podman run -d --name box $R localhost/base sleep 1000 >/dev/null 2>&1 </dev/null
        podman exec box sh -c 'echo kept > /opt/file; rm /etc/group; mv /var /var2'
        for i in 1 2; do podman stop -t 0 box >/dev/null; podman start box >/dev/null; done
        podman exec box sh -c 'cat /opt/file; ls -d /var* ; ls /etc/group 2>/dev/null || echo gone'"#,
        "kept\n/var2\ngone\n",
    );
}

#[test]
fn images_are_saved_and_loaded() {
    both(
        r#"podman run --name box $R localhost/base sh -c 'rm -r /opt; mkdir /opt; echo two > /opt/two; ln /opt/two /opt/link'
        podman commit -q box localhost/two >/dev/null; podman rm box >/dev/null
        for form in docker-archive oci-archive; do
            podman save -q --format $form -o two.tar localhost/two; podman rmi -f localhost/two >/dev/null
            podman load -q -i two.tar; rm two.tar
            podman run --rm $R localhost/two sh -c 'ls /opt; stat -c %h /opt/two'
        done"#,
        "Loaded image: localhost/two:latest\nlink\ntwo\n2\nLoaded image: localhost/two:latest\nlink\ntwo\n2\n",
    );
}

#[test]
fn volumes_users_and_read_only_containers() {
    both(
        r#"podman run --rm $R -v vol:/opt localhost/base sh -c 'cat /opt/file; echo in volume > /opt/x'
        podman run --rm $R -v vol:/opt localhost/base cat /opt/x
        podman run --rm $R --user 1000 localhost/base sh -c 'touch /tmp/x; stat -c %u:%g /tmp/x; touch /opt/x 2>/dev/null || echo refused'
        podman run --rm $R --read-only localhost/base sh -c 'touch /opt/x 2>/dev/null || echo read-only'"#,
        "lowerin volume\n1000:1000\nrefused\nread-only\n",
    );
}

#[test]
fn images_and_containers_are_mounted_on_the_host() {
    let text = r#"podman create --name box $R localhost/base >/dev/null
        at=$(podman mount box); cat $at/opt/file; echo new > $at/opt/file; podman unmount box >/dev/null
        podman start -a box; podman diff box | grep opt
        at=$(podman image mount localhost/base); cat $at/opt/file; touch $at/x 2>/dev/null || echo read-only
        podman image unmount localhost/base >/dev/null"#;
    assert_eq!(script(Who::Root, Union::Ours, text), "lowerC /opt\nC /opt/file\nlowerread-only\n");
}

#[test]
fn user_namespaces_are_mapped_without_a_copy() {
    let text = r#"podman run --name box $R --uidmap 0:200000:65536 --gidmap 0:200000:65536 localhost/base sh -c '
            stat -c %u:%g / /opt/file; echo new > /opt/new; chown 5:6 /opt/new; stat -c %u:%g /opt/new; sed "s/ \+/ /g" /proc/self/uid_map'
        podman commit -q box localhost/two >/dev/null
        podman run $R localhost/two stat -c %u:%g /opt/new /opt/file"#;
    assert_eq!(script(Who::Root, Union::Ours, text), "0:0\n0:0\n5:6\n 0 200000 65536\n5:6\n0:0\n");
}

#[test]
fn keep_id_shows_the_user_his_own_number() {
    let text = r#"podman run --rm $R --userns keep-id localhost/base sh -c 'id -u; stat -c %u:%g / /opt/file; touch /tmp/x; stat -c %u:%g /tmp/x'
        podman run --rm $R --uidmap 0:1:1000 --gidmap 0:1:1000 localhost/base sh -c 'id -u; stat -c %u:%g /opt/file; touch /opt/x; stat -c %u:%g /opt/x'"#;
    assert_eq!(script(Who::User, Union::Ours, text), "4242\n0:0\n0:0\n4242:4242\n0\n0:0\n0:0\n");
}

#[test]
fn force_mask_keeps_owners_and_devices_in_attributes() {
    let text = r#"UNION="$UNION --storage-opt overlay.force_mask=700"
        mkdir more; echo x > more/file; chmod 640 more/file; tar -cf more.tar --owner=7 --group=8 -C more file
        podman import -q more.tar localhost/masked >/dev/null
        at=$(podman image mount localhost/masked); stat -c '%u:%g %a' $at/file; podman image unmount localhost/masked >/dev/null
        getfattr --only-values -n user.containers.override_stat --absolute-names $S/root/overlay/*/diff/file; echo"#;
    assert_eq!(script(Who::Root, Union::Ours, text), "7:8 640\n7:8:0640\n");
}

#[test]
fn system_reset_removes_everything() {
    both(
        r#"podman run --name box $R localhost/base touch /x
        podman system reset -f >/dev/null 2>&1
        ls $S/root 2>/dev/null | head -n 3; podman images -q"#,
        "",
    );
}
