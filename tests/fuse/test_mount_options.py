"""The mountOptions of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.blob.blobfuse import KERNEL, LONG, SHORT, Use
from fuse.blob.mount_options import apply
from fuse.errors import MountError
from fuse.options import MIB, MountOptions

PLAIN = MountOptions(mountpoint=Path("/m"), cache_directory=Path("/c"))


def options(text):
    return apply(text, PLAIN).options


def refused(text, **target):
    with pytest.raises(MountError) as caught:
        apply(text, PLAIN, **target)
    assert caught.value.code == "InvalidOption"
    return caught.value


def test_the_service_s_default_options_are_taken():
    text = (
        "--use-https=true -o big_writes -o max_read=131072 -o max_write=131072 "
        "-o attr_timeout=240 -o fsname=blobfuse -o kernel_cache -o entry_timeout=240 "
        "-o negative_timeout=120 -o allow_other"
    )
    mapped = apply(text, PLAIN, endpoint="https://a.blob.core.windows.net")
    assert mapped.options.attribute_timeout == 240
    assert "-o big_writes" in mapped.without_meaning
    assert "-o allow_other" not in mapped.without_meaning
    assert len(mapped.warnings) == len(mapped.without_meaning)
    assert all(
        name in said for name, said in zip(mapped.without_meaning, mapped.warnings, strict=True)
    )


def test_what_has_a_meaning_is_applied():
    mapped = apply("-o ro,umask=027 -o uid=5 --tmp-path /x --log-level=LOG_WARNING", PLAIN)
    found = mapped.options
    assert (found.read_only, found.file_mode, found.uid) == (True, 0o750, 5)
    assert mapped.log_level == "warning"
    assert mapped.without_meaning == ("--tmp-path",)
    assert apply(None, PLAIN).options == PLAIN


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("--file-cache-timeout-in-seconds=120", 120),
        ("--file-cache-timeout 5", 5),
        ("--attr-cache-timeout=7 --entry-timeout=9", 7),
        ("--file-cache-timeout-in-seconds=0 -o attr_timeout=240", 0),
        ("-o attr_timeout=0 -o entry_timeout=240", 0),
        ("-o attr_timeout=3 -o attr_timeout=30", 30),
        ("-o attr-timeout=1.5", 1.5),
        ("-oattr_timeout=4", 4),
        ("--o=attr_timeout=4,ro", 4),
        ("-o direct_io -o attr_timeout=60", 0),
        ("--direct-io=false", None),
        ("--disable-kernel-cache", 0),
    ],
)
def test_nobody_sees_things_older_than_he_asked_for(text, seconds):
    assert options(text).attribute_timeout == seconds


@pytest.mark.parametrize(
    "text", ["--read-only", "--read-only=true", "--read-only true", "-o rw,ro"]
)
def test_read_only(text):
    assert options(text).read_only


@pytest.mark.parametrize("text", ["--read-only=false", "-o ro,rw", "--read-only false"])
def test_not_read_only(text):
    assert not options(text).read_only


def test_a_volume_that_is_read_only_stays_so():
    closed = MountOptions(mountpoint=Path("/m"), cache_directory=Path("/c"), read_only=True)
    assert apply("-o rw --read-only=false", closed).options.read_only


def test_modes_and_owners():
    found = options("-o fmask=133 -o dmask=022,gid=7")
    assert (found.file_mode, found.directory_mode, found.gid) == (0o644, 0o755, 7)
    assert not options("--allow-other=false").allow_other


def test_sizes():
    assert options("--block-cache-pool-size=512").memory_budget == 512 * MIB
    assert options("--stream-cache-mb 0").memory_budget == PLAIN.memory_budget
    small = apply("--block-cache-pool-size=1", PLAIN)
    assert small.options.memory_budget == 16 * MIB
    assert small.warnings
    found = options("--block-cache --block-cache-block-size=4 --block-cache-prefetch=3")
    assert found.read_ahead_limit == 12 * MIB
    assert options("--block-cache-prefetch=0").read_ahead_limit == 0
    much = options("--block-cache-prefetch=1000")
    assert much.read_ahead_limit <= much.memory_budget // 2


@pytest.mark.parametrize("option", ["--cache-size-mb=2048", "--block-cache-disk-size 2048"])
def test_the_cache_disk(option):
    assert options(option).disk_budget == 2048 * MIB


def test_a_subdirectory_is_the_root():
    assert apply("--subdirectory=a/b/", PLAIN).subdirectory == "a/b"
    assert apply("--subdirectory '/with blank' --virtual-directory", PLAIN).subdirectory == (
        "with blank"
    )


@pytest.mark.parametrize("path", ["..", "a/../b", "/", "a//b", "../x", "."])
def test_a_subdirectory_is_below_the_root(path):
    refused(f"--subdirectory={path}")


def test_the_container_must_be_the_one():
    assert not apply("--container-name=c", PLAIN, container="c").warnings
    assert "c2" in refused("--container-name=c2", container="c").message


def test_the_endpoint_decides_about_https():
    http, https = "http://127.0.0.1:1/a", "https://a.blob.core.windows.net"
    assert not apply("--use-https=true", PLAIN, endpoint=https).warnings
    assert not apply("--use-https=false", PLAIN, endpoint=http).warnings
    assert "http" in apply("--use-https", PLAIN, endpoint=http).warnings[0]
    assert apply("--use-https=false", PLAIN, endpoint=https).warnings


def test_what_is_always_done_needs_no_warning_and_what_never_is_can_be_declined():
    assert not apply("--block-cache --streaming=true -o default_permissions", PLAIN).warnings
    assert not apply("--lazy-write=false --no-symlinks=false", PLAIN).warnings
    assert apply("--lazy-write=true", PLAIN).without_meaning == ("--lazy-write",)
    assert apply("--use-attr-cache=false", PLAIN).without_meaning == ("--use-attr-cache=false",)


def test_options_of_fstab_are_taken():
    text = "-o _netdev,nofail,x-systemd.automount,x-y=1,noatime,noexec,user,defaults"
    mapped = apply(text, PLAIN)
    assert mapped.flags == ("noexec",)
    assert not mapped.warnings


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("--file-cache-timeout-in-second=5", "--file-cache-timeout-in-seconds"),
        ("--tmp_path=/x", "--tmp-path"),
        ("-o allow-others", "-o allow_other"),
        ("--allow_other", "allow"),
        ("--attr_timeout=5", "attr"),
        ("-o attribute_timeout=5", "attr_timeout"),
    ],
)
def test_an_unknown_option_is_refused_with_what_was_meant(text, meant):
    error = refused(text)
    assert "is not known" in error.message
    assert meant in error.hint


def test_the_endpoint_decides_about_the_proxy():
    text = "--http-proxy=http://one:80/ --https-proxy http://user:pass1@two:80"
    assert apply(text, PLAIN, endpoint="http://h/a").proxy == "http://one:80"
    mapped = apply(text, PLAIN, endpoint="https://h")
    assert mapped.proxy == "http://user:pass1@two:80"
    assert "pass1" not in repr(mapped)
    assert apply("--http-proxy=x", PLAIN).proxy is None


def test_what_cannot_be_had_can_be_declined():
    assert not apply("--cpk-enabled=false", PLAIN).warnings
    assert refused("--cpk-enabled").hint


def test_keys_and_their_files_are_refused_with_a_hint():
    error = refused("--config-file=/etc/blobfuse.yaml")
    assert error.hint
    assert refused("--passphrase=x1y2z3").hint
    assert "x1y2z3" not in str(refused("--passphrase=x1y2z3"))


@pytest.mark.parametrize(
    "text",
    [
        "--nonsense=1",
        "-o nonsense",
        "-x",
        "word",
        "-",
        "-o",
        "--file-cache-timeout",
        "--log-level=LOUD",
        "--cache-size-mb=much",
        "--cache-size-mb=-1",
        "--read-only=perhaps",
        "-o attr_timeout=soon",
        "-o attr_timeout=-1",
        "-o attr_timeout=inf",
        "-o uid=-1",
        "-o uid",
        "'open",
        "-o umask=9",
        "-o umask=1777",
        "-o attr_timeout=nan",
    ],
)
def test_what_is_wrong_is_refused_by_name(text):
    refused(text)


def test_every_option_of_the_tables_can_be_given():
    values = {
        Use.CONTAINER: "c",
        Use.SUBDIRECTORY: "d",
        Use.LOG_LEVEL: "LOG_INFO",
        Use.MASK: "022",
    }
    for prefix, table in (("--", LONG), ("-o ", KERNEL), ("-", SHORT)):
        for name, option in table.items():
            value = f"={values.get(option.use, '5')}" if option.value else ""
            if option.use is Use.REFUSED:
                assert refused(f"{prefix}{name}{value}").hint == option.why
            else:
                apply(f"{prefix}{name}{value}", PLAIN, container="c")


@given(st.text(max_size=60))
def test_nothing_else_is_ever_raised(text):
    try:
        apply(text, PLAIN)
    except MountError as error:
        assert error.code == "InvalidOption"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([f"--{name}" for name in LONG] + [f"-o {name}" for name in KERNEL]),
            st.sampled_from(["", "=1", "=true", "=/x", "=", "=0.5", "=LOG_DEBUG", " 7"]),
        ),
        max_size=5,
    )
)
def test_no_combination_of_options_and_values_raises_anything_else(chosen):
    test_nothing_else_is_ever_raised.hypothesis.inner_test(" ".join(a + b for a, b in chosen))
