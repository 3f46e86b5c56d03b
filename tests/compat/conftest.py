from tests.rest.conftest import tcp_server

__all__ = ["tcp_server"]
