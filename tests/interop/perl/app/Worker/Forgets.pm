package Worker::Forgets;
use strict;
use warnings;
use base 'Qudo::Worker';
use Shop;

sub work { my ($class, $job) = @_; note(forgets => $job->retry_cnt); return 'done?' }

1;
