"""What happens to a journal's entry while the disk is busy with it."""

from __future__ import annotations

from fuse.journal import Journal
from fuse.places import Places
from tests.fuse.memory_volume import MemoryVolume
from tests.support.logs import captured


async def test_an_entry_that_is_committed_while_its_name_is_synced(tmp_path, monkeypatch):
    volume = MemoryVolume()
    journal = Journal(Places(tmp_path, volume.identity))
    entry = journal.begin("f", volume.put("f", b"0123456789"))
    entry.write(0, b"AB", known=False)

    async def committed():
        entry.discard()
        entry.close()

    monkeypatch.setattr(journal, "sync_names", committed)
    with captured() as said:
        await journal.sync()
    assert said == [], "there is nothing to report"
    journal.close()
