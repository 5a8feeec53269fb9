package Resque::Plugin::Qudo;

# Lets Qudo's worker classes run, unchanged, as the classes of Perl Resque's jobs, with Qudo's retries and time limit.
#
#   my $resque = Resque->new(redis => '127.0.0.1:6379', plugins => ['Qudo']);
#
# Three things change, and only for classes that have `work` and no `perform` of their own; see docs/perl-workers.md:
#
#   Qudo::Job      the job is performed by $class->work_safely($job), and settled by Qudo's rules
#   Qudo::Worker   a job is noted in Redis in the moment in which it leaves its queue; its time is watched
#   Qudo::Attempt  what `work` gets as $job
#
# Needs core modules and what Resque itself needs (Moose, Redis, JSON, Class::Load).

use strict;
use warnings;

use Resque::Plugin;

add_to job    => 'Qudo::Job';
add_to worker => 'Qudo::Worker';

my %OPTIONS = (
    spread       => [],       # globs of classes whose route says args = "spread": `arg` is the whole list
    bytes        => {},       # glob of classes => "utf8" or "latin1": `arg` has byte strings, as without a serializer
    queue_of     => {},       # class => queue for jobs that a job enqueues; else its name in lower case, "::" as "_"
    grace        => 5,        # seconds between TERM and KILL for a job that is over its time
    poll_seconds => 0.25,     # how often a running job's time is looked at
);

# Called once, before workers start. Dies for an option that isn't there.
sub configure {
    my ($class, %options) = @_;
    for my $name (keys %options) {
        die "Resque::Plugin::Qudo has no option $name\n" if !exists $OPTIONS{$name};
        $OPTIONS{$name} = $options{$name};
    }
    return;
}

sub option { return $OPTIONS{ $_[1] } }

# Whether a class is meant by a glob: `*` stands for anything.
sub matches {
    my (undef, $glob, $name) = @_;
    my $pattern = join '.*', map { quotemeta } split /\*/, $glob, -1;
    return $name =~ /\A$pattern\z/s;
}

1;
