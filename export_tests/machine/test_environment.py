"""What a record says of the machine and of the command that made it."""

from __future__ import annotations

import sys

from attn_deploy.machine.environment import command_line


def test_a_record_names_files_and_not_the_folders_they_lie_in(monkeypatch):
    words = ["/usr/bin/attn-deploy", "profile", "/home/me/net.py:Net", "--output=/a/b/c.json", "-o", "out/x", "7/8"]
    monkeypatch.setattr(sys, "argv", words)
    assert command_line() == ("attn-deploy", "profile", "net.py:Net", "--output=c.json", "-o", "out/x", "7/8")
