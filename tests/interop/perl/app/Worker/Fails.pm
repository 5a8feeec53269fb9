package Worker::Fails;
use strict;
use warnings;
use base 'Qudo::Worker';
use Shop;

sub max_retries { 2 }
sub retry_delay { my ($class, $job) = @_; return $job->retry_cnt ? 0 : 1 }

sub work {
    my ($class, $job) = @_;
    note(fails => $job->retry_cnt);
    die "it fails with \x{9b8e}\nhere\n";
}

1;
