"""Perl's Storable, read and written without Perl. Pure: bytes in, values out."""

from migrate.qudo.serializers.storable.decoder import decode
from migrate.qudo.serializers.storable.encoder import nfreeze
from migrate.qudo.serializers.storable.header import looks_like

__all__ = ["decode", "looks_like", "nfreeze"]
