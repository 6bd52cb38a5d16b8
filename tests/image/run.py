"""Does what packaging/Dockerfile says in plain folders, for want of a daemon that builds images.

    run.py PROGRAM [DOCKERFILE]

The program stands for what `cargo build` in the image makes of the same sources. Every other command of the build runs as it is written,
with `/out` in a folder of this test; then the image's command is started with nothing but the image's environment, its health check must
say that it works, and its other name must be there. As root, files get the owner that the image gives them, and the program runs as that.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time

# What Debian's slim image has of what a program may be linked with.
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "linux-vdso.so.1"}


def instructions(path):
    with open(path, encoding="utf-8") as opened:
        text = re.sub(r"\\\n", " ", "\n".join(line for line in opened.read().splitlines() if not line.startswith("#")))
    found = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, rest in found]


def stages(all_instructions):
    found = []
    for word, rest in all_instructions:
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def one(stage, word):
    found = [rest for name, rest in stage if name == word]
    assert len(found) == 1, f"{word} stands {len(found)} times"
    return found[0]


def build(stage, program, folder):
    """Runs the commands of the build stage; answers the folder that is `/out` there."""
    source, out = os.path.join(folder, "src"), os.path.join(folder, "out")
    os.makedirs(os.path.join(source, "target/release"))
    shutil.copy(program, os.path.join(source, "target/release/bellwire"))
    assert one(stage, "COPY") == ". .", "everything that is needed is copied"
    built = False
    for command in one(stage, "RUN").split("&&"):
        words = shlex.split(command)
        if words[:2] == ["cargo", "build"]:
            built = True
            # The same package and lock file must be there; what it builds is the program that was given.
            asked = subprocess.run(["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"], capture_output=True, check=True)
            names = {package["name"] for package in json.loads(asked.stdout)["packages"]}
            assert words[words.index("-p") + 1] in names, command
            continue
        assert built, f"{command} comes before the build"
        if os.geteuid() != 0 and words[0] == "install":
            words = [w for i, w in enumerate(words) if w not in ("-o", "-g") and (i == 0 or words[i - 1] not in ("-o", "-g"))]
        words = [out + word[len("/out"):] if word.startswith("/out") else word for word in words]
        subprocess.run(words, cwd=source, check=True)
    assert built
    return out


def check_libraries(program):
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    names = {os.path.basename(line.split()[0]) for line in told.splitlines()}
    strange = {name for name in names if name not in LIBRARIES and not name.startswith("ld-linux")}
    assert not strange, f"the image has no {strange}"


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(stage, out, folder):
    environment = dict(rest.split("=", 1) for word, rest in stage if word == "ENV")
    # The image's folder and port, but here.
    for name, value in environment.items():
        if value.startswith("/"):
            assert os.path.isdir(out + value), f"{name}={value} is not in the image"
            environment[name] = out + value
        elif value.endswith(":" + one(stage, "EXPOSE")):
            environment[name] = f"127.0.0.1:{free_port()}"
    environment["PATH"] = os.path.join(out, "usr/local/bin")
    user, group = (int(number) for number in one(stage, "USER").split(":"))
    switch = {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}
    if switch:
        os.chmod(folder, 0o755)

    def run(words, **more):
        found = shutil.which(words[0], path=environment["PATH"])
        assert found, f"there is no {words[0]} in the image"
        return subprocess.Popen([found, *words[1:]], env=environment, cwd="/", stdout=subprocess.DEVNULL, **switch, **more)

    secret = {"BELLWIRE_JWT_SECRET": "a secret of this test, long enough to sign with"}
    environment.update(secret)
    with open(os.path.join(folder, "log"), "wb") as log:
        server = run(json.loads(one(stage, "CMD")), stderr=log)
    try:
        check = json.loads(one(stage, "HEALTHCHECK").split("CMD ", 1)[1])
        deadline = time.monotonic() + 30
        while run(check, stderr=subprocess.DEVNULL).wait(timeout=10) != 0:
            assert server.poll() is None and time.monotonic() < deadline, open(os.path.join(folder, "log")).read()
            time.sleep(0.1)
        assert run(["svix-server", "jwt", "generate"], stderr=subprocess.DEVNULL).wait(timeout=10) == 0
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0, "it ends when it is told to"
    # Without a server the same check says so.
    assert run(check, stderr=subprocess.DEVNULL).wait(timeout=10) != 0


def main(program, dockerfile="packaging/Dockerfile"):
    builder, image = stages(instructions(dockerfile))
    assert one(builder, "FROM").endswith(" AS build")
    copied = [rest.split() for word, rest in image if word == "COPY"]
    with tempfile.TemporaryDirectory(prefix="bellwire-image-") as folder:
        out = build(builder, os.path.abspath(program), folder)
        for source, path, target in copied:
            assert source == "--from=build"
            there = out if path == "/out/" else path
            assert os.path.exists(there), f"{path} is not there to be copied to {target}"
        check_libraries(os.path.join(out, "usr/local/bin/bellwire"))
        start(image, out, folder)
    print("the image's build, command, health check and second name work")


main(*sys.argv[1:])
