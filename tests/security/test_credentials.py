"""Credentials in a URI are refused wherever one is given, and not repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.storage import SweepFolder, open_storage, refuse_secret
from rts_search.cluster.package import check_storage_is_shared
from rts_search.spec.reading import load_spec
from tests.sweeps.harness import ROOT

KEY, SECRET = "AKIDSENTINEL", "wJalr-SENTINEL"
URIS = [
    f"s3://{KEY}:{SECRET}@bucket/prefix",
    f"s3://{KEY}:{SECRET}@bucket/prefix?scheme=http&endpoint_override=localhost:9000",
    f"s3://{KEY}:{SECRET}/with/slashes@bucket",
    f"S3://:{SECRET}@bucket",
    f"abfs://account:{SECRET}@container/path",
    f"hdfs://user:{SECRET}@host:9000/path",
    f"s3://bucket/prefix?secret_key={SECRET}",
    f"s3://bucket/prefix?scheme=http&session_token={SECRET}",
    f"abfs://account.dfs.core.windows.net/c?account_key={SECRET}",
]


@pytest.mark.parametrize("uri", URIS)
def test_refused_everywhere_in_one_line(uri: str, tmp_path: Path) -> None:
    attempts = [
        lambda: load_spec(f"{{storage: '{uri}'}}"),
        lambda: load_spec("{}", [f"storage={uri}"]),
        lambda: load_spec(f"{{search: {{warm_start: ['{uri}/sweep']}}}}"),
        lambda: SweepFolder(uri, "x"),
        lambda: open_storage(uri),
        lambda: check_storage_is_shared(uri),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=r"AWS_SECRET_ACCESS_KEY.*role") as error:
            attempt()
        text = str(error.value)
        assert "\n" not in text
        assert SECRET not in text
        assert KEY not in text


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a@b/c",
        "s3://bucket/a:b@c",
        "s3://bucket/prefix?scheme=http&endpoint_override=localhost:9000",
        "gs://anonymous@bucket/prefix",
        "abfss://container@account.dfs.core.windows.net/path",
        "hdfs://host:9000/who@home",
        "/home/a:b@c/sweeps",
        "folder/with?token=x",
        "sweeps",
    ],
)
def test_what_holds_no_secret_is_taken(uri: str) -> None:
    assert refuse_secret(uri) == uri


@pytest.mark.parametrize(
    "command", [["list"], ["best", "x"], ["query", "FROM trials"], ["status", "x"], ["resume", "x"]]
)
def test_at_the_command_line(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rts_search.cli.app import main

    with pytest.raises(SystemExit) as end:
        main([*command, "--storage", URIS[0]])
    said = "".join(capsys.readouterr())
    assert end.value.code == 2
    assert said.count("\n") == 1
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert SECRET not in said


def test_the_code_asks_git_for_no_remote() -> None:
    source = (ROOT / "rts_search" / "spec" / "provenance.py").read_text("utf-8")
    assert "remote" not in source
    assert "environ" not in source
