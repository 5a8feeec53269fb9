package Worker::Aborts;
use strict;
use warnings;
use base 'Qudo::Worker';

sub max_retries { 5 }
sub work { my ($class, $job) = @_; $job->abort('never again'); die 'no matter' }

1;
