package Worker::Mail;
use strict;
use warnings;
use base 'Qudo::Worker';
use Shop;

sub max_retries { 1 }

# The first try of each job fails: what the second one sees has been written again.
sub work {
    my ($class, $job) = @_;
    note(mail => $job->retry_cnt, $job->id, $job->uniqkey, $job->db, $job->priority, $job->arg);
    die "the first time\n" if !$job->retry_cnt;
    $job->completed;
}

1;
