import pytest

from paper_tables import commands, results, table_files


@pytest.fixture
def own_tables(tmp_path, monkeypatch):
    """Makes a table of a test's own the only one; returns a function that writes it."""
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.setattr(table_files, "FOLDER", folder)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(commands, "ROOT", tmp_path)

    def write(text, name="own"):
        (folder / f"{name}.toml").write_text(text)
        return name

    return write


@pytest.fixture(autouse=True)
def platforms():
    """Puts back what commands set for their process."""
    import jax

    before = jax.config.jax_platforms
    yield
    jax.config.update("jax_platforms", before)
