#!/usr/bin/python3
"""A snapshotter for containerd that hands out mounts as containerd's fuse-overlayfs snapshotter does.

  compat_snapshotter.py SOCKET ROOT

It speaks containerd's snapshots service (api/services/snapshots/v1/snapshots.proto) as a proxy plugin, and keeps what it
knows in memory: enough for one test. A snapshot with parents is a mount of type fuse3.fuse-overlayfs, which containerd
makes by mount.fuse3.
"""
import os
import sys
import threading
from concurrent import futures

import grpc

VIEW, ACTIVE, COMMITTED = 1, 2, 3


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    """A field of a message: text and messages by their bytes, numbers as varints."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def read(message):
    """The fields of a message: a list of values by number."""
    fields, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            value = number()
        else:
            size = number()
            value = message[at:at + size]
            at += size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def text(fields, number):
    return fields.get(number, [b""])[0].decode()


class Snapshots:
    def __init__(self, root):
        self.root, self.known, self.lock = root, {}, threading.Lock()

    def get(self, key, context):
        if key not in self.known:
            context.abort(grpc.StatusCode.NOT_FOUND, f"snapshot {key}: not found")
        return self.known[key]

    def make(self, request, context, kind):
        fields = read(request)
        key, parent = text(fields, 2), text(fields, 3)
        with self.lock:
            if key in self.known:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"snapshot {key}: already exists")
            at = os.path.join(self.root, str(len(os.listdir(self.root))))
            for name in ("fs", "work"):
                os.makedirs(os.path.join(at, name), 0o755 if name == "fs" else 0o711)
            self.known[key] = {"parent": parent, "kind": kind, "at": at, "labels": fields.get(4, [])}
        return self.mounts(key, context)

    def mounts(self, key, context):
        snapshot = self.get(key, context)
        below, parent = [], snapshot["parent"]
        while parent:
            below.append(os.path.join(self.get(parent, context)["at"], "fs"))
            parent = self.get(parent, context)["parent"]
        own, writable = os.path.join(snapshot["at"], "fs"), snapshot["kind"] == ACTIVE
        if not below or (len(below) == 1 and not writable):
            mount = field(1, "bind") + field(2, own if not below else below[0])
            options = ["rw" if writable else "ro", "rbind"]
        else:
            mount = field(1, "fuse3.fuse-overlayfs") + field(2, "overlay")
            upper = [f"workdir={snapshot['at']}/work", f"upperdir={own}"] if writable else []
            options = upper + ["lowerdir=" + ":".join(below)]
        return field(1, mount + b"".join(field(4, option) for option in options))

    def info(self, key, context):
        snapshot = self.get(key, context)
        labels = b"".join(field(6, label) for label in snapshot["labels"])
        return field(1, key) + field(2, snapshot["parent"]) + field(3, snapshot["kind"]) + labels

    def commit(self, request, context):
        fields = read(request)
        name, key = text(fields, 2), text(fields, 3)
        with self.lock:
            if name in self.known:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"snapshot {name}: already exists")
            self.known[name] = {**self.get(key, context), "kind": COMMITTED, "labels": fields.get(4, [])}
            del self.known[key]
        return b""

    def remove(self, request, context):
        with self.lock:
            self.get(text(read(request), 2), context)
            del self.known[text(read(request), 2)]
        return b""

    def update(self, request, context):
        wanted = read(read(request)[2][0])
        key = text(wanted, 1)
        self.get(key, context)["labels"] = wanted.get(6, [])
        return field(1, self.info(key, context))

    def list(self, _request, context):
        yield b"".join(field(1, self.info(key, context)) for key in list(self.known))

    def handlers(self):
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        keyed = lambda act: lambda request, context: act(text(read(request), 2), context)
        return {
            "Prepare": unary(lambda request, context: self.make(request, context, ACTIVE)),
            "View": unary(lambda request, context: self.make(request, context, VIEW)),
            "Mounts": unary(keyed(self.mounts)),
            "Commit": unary(self.commit),
            "Remove": unary(self.remove),
            "Stat": unary(keyed(lambda key, context: field(1, self.info(key, context)))),
            "Update": unary(self.update),
            "List": stream(self.list),
            "Usage": unary(lambda request, context: b""),
            "Cleanup": unary(lambda request, context: b""),
        }


def main():
    socket, root = sys.argv[1:]
    os.makedirs(root)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    service = "containerd.services.snapshots.v1.Snapshots"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, Snapshots(root).handlers())])
    server.add_insecure_port("unix:" + socket)
    server.start()
    server.wait_for_termination()


main()
