package Worker::Sleeps;
use strict;
use warnings;
use base 'Qudo::Worker';
use Shop;

sub max_retries { 1 }

# The first time.
sub work {
    my ($class, $job) = @_;
    note(sleeps => $job->retry_cnt, $$, getppid);
    sleep $job->arg->{seconds} if !$job->retry_cnt;
    note(slept => $job->retry_cnt);
    $job->completed;
}

1;
