package Shop;

# What the worker classes of tests/interop/test_perl_workers.py share: each note is a line of JSON in $ENV{RAN}.

use strict;
use warnings;
use Exporter 'import';
use JSON;

our @EXPORT = ('note');

sub note {
    my @words = @_;
    open my $file, '>>', $ENV{RAN} or die "$ENV{RAN}: $!";
    syswrite $file, JSON->new->ascii->canonical->allow_nonref->allow_blessed->encode(\@words) . "\n";
    return;
}

1;
